"""Good and bad captions of every kind, written by hand; each must be judged right."""

import random
import string

import pytest

from gve_ray.synthesis.rectify import REASONS, rectify

GOOD = """
red circle moves left
a dog runs
dog running
small blue bar spins, then shrinks
white star on night sky
two boys play chess in a park
A baker takes cookies out of the oven
A man buys tickets at a train station counter
Woman clicks her pen while she reads a newspaper
close-up of a bee on lavender
Aerial view of a highway at dusk, cars streaming both ways
the camera pans over a brick wall
Girl in red dress walks down stairs.
3 penguins slide on ice
Chef flips pancake, catches it behind his back
time lapse of clouds over mountains 4K
A mechanic removes the rear wheel of a motorcycle and checks the brake disc before lubricating the chain.
Slow motion of water balloon bursting
people dancing at a wedding
football player scores from free kick
rhythmic gymnast twirls ribbon
Grandmother knits a sweater by the window
sphynx cat yawns
A teacher writes "x = 3y + 2" on the blackboard
train arrives at platform 9
drone shot, jungle river
The pharmacist shows how to open a child-proof bottle
a boy shares his lunch with a friend
Her video camera falls into the pool
someone uploads files on a laptop in a cafe
A truck driver checks his mirrors and follows the road signs to the harbour
protesters hold signs in front of parliament
Skateboarder grinds a rail, falls, and gets up laughing
Man watches TV with his cat
An old sign reads "no entry"
kpop group dance practice
The waiter brings the menu to table 4
yellow triangle grows beside a purple ring
green ball bounces twice and stops at the top right
Le chat noir dort sur le canapé
Une femme coupe des légumes dans une cuisine
deux enfants jouent au ballon
Ein Hund läuft am Strand entlang
Der Mann repariert sein Fahrrad im Hof
rotes Auto fährt durch Tunnel
Un perro corre por la playa
La niña pinta un cuadro de flores
Un uomo suona il violino in piazza
Gatto che salta dal tavolo
Uma menina anda de bicicleta no parque
Een vrouw geeft de planten water
Kobieta karmi gołębie na rynku
pies biegnie po śniegu
Žena peče chléb v kuchyni
En pojke kastar en boll till sin hund
Kırmızı bir araba köprüden geçiyor
Seekor kucing tidur di atas meja
Người đàn ông câu cá bên hồ
Собака бежит по пляжу
Девушка играет на скрипке в парке
Η γυναίκα περπατά στην παραλία
犬が公園を走っている
女の子がケーキを切る
一只狗在海滩上奔跑
男人在修理自行车
아이가 공원에서 자전거를 탄다
رجل يمشي على الشاطئ مع كلبه
एक लड़का गेंद फेंकता है
ชายคนหนึ่งกำลังตกปลา
crowd cheers
waves, rocks, sunset
A woman in a café pours latte art
Jiujitsu fighters grapple on the mat
Zebra and fjord horse graze together
A couple looks at the view from the Eiffel Tower
nurse washes hands with soap
tutorial on how to fold a paper crane, hands on a wooden table
Llamas walk up a hill in Peru
two wolves howl at the moon
GIRL JUMPS ROPE IN GYM
""".strip().splitlines()

# (raw, what must be left of it)
CLEANED = [
    ("<p>A dog runs &amp; barks</p>", "A dog runs & barks"),
    ("A dog runs on grass #dog #cute #fyp", "A dog runs on grass"),
    ("a surfer rides a big wave https://youtu.be/x1y2z3", "a surfer rides a big wave"),
    ("  red   circle\n moves left ", "red circle moves left"),
    ("[b]Old man feeds ducks[/b]", "Old man feeds ducks"),
    ("**Two cats** fight over a [toy mouse](http://shop.example/toy)", "Two cats fight over a toy mouse"),
    ("cafÃ© terrace with people drinking coffee", "café terrace with people drinking coffee"),
    ("A #kitten plays with wool", "A kitten plays with wool"),
    ("A man climbs a rock wall. Subscribe for more!", "A man climbs a rock wall."),
    ("A potter shapes a bowl | Click here to see the full video", "A potter shapes a bowl"),
    ("Horse jumps over a fence. © 2021 Getty. All rights reserved.", "Horse jumps over a fence."),
    ("girl rides a pony IMG_2034.MOV", "girl rides a pony"),
    ("&quot;Snow&quot; falls on a village", '"Snow" falls on a village'),
    ("Boy blows out candles @happyfamily", "Boy blows out candles"),
]

BAD = {
    "url": """
https://www.youtube.com/watch?v=dQw4w9WgXcQ
www.bestvideos.example/watch/2391?ref=home
http://bit.ly/3xYz
videos.mysite.com/clip/882
contact@studio.example
youtu.be/abc123 youtu.be/def456
""",
    "file_name": """
IMG_2034.MOV
final_v2.mp4
VID-20200101-WA0001.mp4
DSC00412
MVI_0031.AVI
GOPR0932.MP4
screen recording 2021-03-04 at 10.22.31.mov
C:\\Users\\me\\Videos\\holiday.avi
my_clip_final_FINAL(3).mkv
/home/user/videos/export_1080p.mp4
PXL_20210804_120312345
untitled-project-copy-2.webm
dog_park_03_edit_v7.mp4
Recording 0012
render 0001.m4v
clip_00231
""",
    "hashtags": """
#fun #viral #fyp
#dog#cat#pets
#love #instagood #photooftheday #2021
@user1 @user2 #tbt
""",
    "call_to_action": """
click here
Click here to watch the full video!
LIKE and SUBSCRIBE for more
Don't forget to hit the bell
Link in bio
buy now 50% off
Watch till the end!!!
follow me on instagram for more
Check out my new channel
You won't believe what happens next
Download free HD now
swipe up to shop
visit our website for more information
Thanks for watching
Abonnieren Sie unseren Kanal
Hier klicken, um das Video zu sehen
Cliquez ici pour voir la vidéo
Abonnez-vous à notre chaîne
Haz clic aquí
Suscríbete al canal y dale like
Clicca qui
Iscriviti al canale
Inscreva-se no canal e ative o sininho
Klik hier voor meer
Kliknij tutaj
Подписывайтесь на канал и ставьте лайки
チャンネル登録お願いします
点击这里观看完整视频
구독과 좋아요 부탁드립니다
اشترك في القناة
Kanala abone ol
""",
    "markup": """
<div class="video-title"></div>
<a href="/watch?id=12"><img src="thumb.jpg"></a>
<iframe width="560" src="https://player.example/embed/1"></iframe>
&nbsp;&nbsp;<br/><br/>
[img]http://a.example/x.png[/img]
![](thumb.png)
{"id": 31, "title": null, "tags": []}
<script>var x = 1; play(x);</script>
function onPlay() { return false; }
.player { width: 100%; color: #fff; }
{{ video.title }}
<b></b><i></i><span>
[video width="640" height="360"][/video]
""",
    "gibberish": """
asdfghjkl
asdf jkl qwerty
xkcjv wqpz mnrt
sdkjfh skdjfh ksjdhf
qwertyuiop zxcvbnm
lkjhg poiuy mnbvc
aKjdHsYe pQzRtW
x7f9q2 k3m8z1 b5t2r9
hjgfdsa hjgfdsa kjhg
zzxxccvv qqwweerr
wjkqx vbznp rtplk
Ð¿Ñ€Ð¸Ð²ÐµÑ�Ñ‚ Ã¼Ã¶Ã¤
ï¿½ï¿½ï¿½ ï¿½ï¿½
jfkdls jfkdls;a fjdksl
bvcnx mzlak qpwoe
""",
    "boilerplate": """
All rights reserved
© 2019 Media Corp
This website uses cookies to improve your experience.
By continuing you accept our privacy policy and terms of use
Wir verwenden Cookies, um Inhalte zu personalisieren.
Alle Rechte vorbehalten
Datenschutzerklärung und Impressum
Jetzt anmelden und keine Folge verpassen
Nous utilisons des cookies pour améliorer votre expérience
Tous droits réservés
Mentions légales | Conditions d'utilisation
Todos los derechos reservados
Este sitio utiliza cookies propias y de terceros
Política de privacidad
Tutti i diritti riservati
Utilizziamo i cookie per offrirti un servizio migliore
Todos os direitos reservados
Deze website maakt gebruik van cookies
Alle rechten voorbehouden
Wszelkie prawa zastrzeżone
Ta strona używa plików cookie
Все права защищены
Мы используем файлы cookie
Tüm hakları saklıdır
当サイトではクッキーを使用しています
版权所有 翻印必究
모든 권리 보유
This video is unavailable
404 page not found
Please enable JavaScript to play this video
Home | About | Contact | Privacy
Sign in to confirm your age
Weiterlesen
En savoir plus
Leer más
Lorem ipsum dolor sit amet
Add to cart
Skip to main content
""",
    "placeholder": """
untitled
Untitled video
my video
video 1
no description
Description
test test
New clip
n/a
null
wow so cool!!!
OMG amazing
lol
video sin título
Ohne Titel
""",
    "non_linguistic": """
12:33 - 00:56
!!!???
😂😂😂
2020-01-01 12:00:00
+1 555 0100
---
1080p
""",
    "repeated": """
dog dog dog dog
spam spam spam spam spam spam
sale sale sale
""",
    "too_short": """
dog
Beach
le
""",
    "empty": "\n \n",
}
JUNK = [(line, kind) for kind, lines in BAD.items() for line in lines.strip().splitlines()]


@pytest.mark.parametrize("caption", GOOD)
def test_a_description_is_kept_as_it_is(caption: str) -> None:
    assert rectify(caption).text == caption


@pytest.mark.parametrize(("raw", "left"), CLEANED)
def test_what_can_be_cleaned_is_cleaned_and_kept(raw: str, left: str) -> None:
    assert rectify(raw).text == left


@pytest.mark.parametrize(("caption", "kind"), JUNK)
def test_junk_is_dropped_with_a_reason(caption: str, kind: str) -> None:
    verdict = rectify(caption)
    assert verdict.text is None
    assert verdict.reason in REASONS


def test_the_reason_is_mostly_the_kind_of_junk() -> None:
    right = sum(rectify(caption).reason == kind for caption, kind in JUNK)
    assert right >= 0.85 * len(JUNK), [
        (caption, kind, rectify(caption).reason) for caption, kind in JUNK if rectify(caption).reason != kind
    ]


@pytest.mark.parametrize("caption", [None, "", "  \n "])
def test_nothing_is_empty(caption: str | None) -> None:
    assert rectify(caption).reason == "empty"


def test_random_letters_are_gibberish_at_nearly_every_draw() -> None:
    rng = random.Random(7)
    drawn = [
        " ".join(
            "".join(rng.choices(string.ascii_lowercase, k=rng.randint(4, 9)))
            for _ in range(rng.randint(2, 5))
        )
        for _ in range(300)
    ]
    kept = [text for text in drawn if rectify(text).text]
    assert len(kept) <= 15, kept  # 95 %: some random letters do look like words


def test_cleaning_what_is_clean_changes_nothing() -> None:
    for caption in GOOD:
        once = rectify(caption).text
        assert rectify(once).text == once
