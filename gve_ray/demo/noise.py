"""Write captions like those on the web: junk that describes nothing, and untidy true captions."""

import random
import string
from collections.abc import Callable

_TLDS = ("com", "net", "tv", "io", "co.uk", "de", "info")
_HOST_WORDS = ("clip", "stock", "media", "watch", "vid", "stream", "tube", "cloud", "cdn", "share", "host")
_TAGS = (
    "fyp", "foryou", "viral", "trending", "shorts", "reels", "subscribe", "likeforlike", "follow4follow",
    "explorepage", "instagood", "video", "new", "2021", "tbt", "mood", "f4f", "comment", "share", "xyzbca",
)  # fmt: skip
_BAIT = (
    "You won't BELIEVE what happens next",
    "click here to watch the full video",
    "LIKE, SHARE and SUBSCRIBE for more",
    "wait for it",
    "Doctors hate this one simple trick",
    "link in bio",
    "watch till the end or regret it",
    "number {number} will shock you",
    "only {number} people in the world know this",
    "win a free phone today, just click the link below",
    "Part {number} is on my channel, go check it out",
    "free download HD {number}p no registration",
    "best price, order now, free shipping over {number} USD",
    "smash that like button",
    "don't forget to hit the bell",
)
_BOILERPLATE = (
    "Alle Rechte vorbehalten. Impressum und Datenschutz",
    "Dieses Video ist in Ihrem Land leider nicht verfügbar",
    "Bitte akzeptieren Sie die Cookies, um fortzufahren",
    "Tous droits réservés. Mentions légales et conditions générales d'utilisation",
    "Abonnez-vous à notre chaîne et activez la cloche",
    "Veuillez vous connecter pour lire cette page",
    "Todos los derechos reservados. Aviso legal y política de privacidad",
    "Suscríbete al canal y dale a me gusta",
    "Tutti i diritti riservati. Informativa sulla privacy",
    "Todos os direitos reservados. Clique aqui para entrar",
    "Wszelkie prawa zastrzeżone. Polityka prywatności",
    "Все права защищены. Подпишитесь на наш канал",
    "Для просмотра видео включите JavaScript",
    "版权所有 未经许可不得转载",
    "点击关注 了解更多精彩内容",
    "無断転載を禁じます チャンネル登録お願いします",
    "모든 권리 보유 구독과 좋아요 부탁드립니다",
    "جميع الحقوق محفوظة اشترك في القناة",
)


def _letters(rng: random.Random, low: int, high: int, alphabet: str = string.ascii_lowercase) -> str:
    return "".join(rng.choices(alphabet, k=rng.randint(low, high)))


def _url(rng: random.Random) -> str:
    host = f"{rng.choice(_HOST_WORDS)}{rng.choice(_HOST_WORDS)}.{rng.choice(_TLDS)}"
    key = _letters(rng, 6, 11, string.ascii_letters + string.digits)
    return rng.choice(
        (
            f"https://www.{host}/watch?v={key}",
            f"http://{host}/{rng.randint(2009, 2024)}/{rng.randint(1, 12):02d}/{key}.html",
            f"www.{host}/{key}",
            f"{host}/v/{rng.randint(10**5, 10**9)}?utm_source=share&utm_id={key}",
        )
    )


def _hashtags(rng: random.Random) -> str:
    joint = rng.choice((" ", " ", ""))
    return joint.join(f"#{tag}" for tag in rng.sample(_TAGS, rng.randint(3, 8)))


def _file_name(rng: random.Random) -> str:
    date = f"{rng.randint(2009, 2024)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    clock = f"{rng.randint(0, 23):02d}{rng.randint(0, 59):02d}{rng.randint(0, 59):02d}"
    number = rng.randint(1, 9999)
    return rng.choice(
        (
            f"IMG_{date}_{clock}.MOV",
            f"VID-{date}-WA{number:04d}.mp4",
            f"DSC_{number:04d}.AVI",
            f"GOPR{number:04d}.MP4",
            f"MVI_{number:04d}",
            f"final_export_v{number % 9 + 1} ({number % 5}).mp4",
            f"untitled-{number % 40}.mov",
            f"Screen Recording {date[:4]}-{date[4:6]}-{date[6:]} at {clock[:2]}.{clock[2:4]}.mkv",
            f"C:\\Users\\user\\Videos\\{_letters(rng, 4, 8)}{number}.wmv",
        )
    )


def _click_bait(rng: random.Random) -> str:
    text = rng.choice(_BAIT).format(number=rng.randint(2, 99))
    if rng.random() < 0.3:
        text = text.upper()
    return text + rng.choice(("", ".", "!", "!!!", "...", " 😱😱", " 👇👇👇", " >>>"))


def _markup(rng: random.Random) -> str:
    key = _letters(rng, 4, 8)
    return rng.choice(
        (
            f'<div class="caption" id="{key}"><a href="/v/{key}">video</a></div>',
            f'<iframe src="https://player.{key}.com/embed" width="{rng.randint(2, 9)}60"></iframe>',
            "&nbsp;&nbsp;&lt;br&gt;&nbsp;",
            "{{ video.title }} | {{ site.name }}",
            f'[caption id="attachment_{rng.randint(10, 9999)}" align="aligncenter"][/caption]',
            f"<p></p><!-- {key} --><br/>",
            '{"title": null, "description": null, "id": ' + str(rng.randint(100, 99999)) + "}",
            f"![]({key}.gif) [](#{key})",
        )
    )


def _gibberish(rng: random.Random) -> str:
    words = [_letters(rng, 2, 12, rng.choice(("asdfghjkl", "qwrtzpsdfgklxcv", string.ascii_lowercase)))
             for _ in range(rng.randint(1, 6))]  # fmt: skip
    return rng.choice(
        (
            " ".join(words),
            "?" * rng.randint(3, 12) + " " + "?" * rng.randint(2, 8),
            " ".join(_letters(rng, 2, 6, string.digits) for _ in range(rng.randint(2, 6))),
            "".join(rng.choices("ÃÂ¤¼¶Ÿ©€ž", k=rng.randint(8, 24))),
            "".join(rng.choices("😀😂🔥💯✨🎥👍❤", k=rng.randint(2, 9))),
            _letters(rng, 16, 40, string.ascii_letters + string.digits + "+/=_-"),
        )
    )


def _boilerplate(rng: random.Random) -> str:
    text = rng.choice(_BOILERPLATE)
    return f"© {rng.randint(2008, 2024)} {text}" if rng.random() < 0.3 else text


JUNK: dict[str, Callable[[random.Random], str]] = {
    "url": _url,
    "hashtags": _hashtags,
    "file name": _file_name,
    "click bait": _click_bait,
    "markup": _markup,
    "gibberish": _gibberish,
    "boilerplate": _boilerplate,
}


def junk_caption(rng: random.Random) -> str:
    """Return a caption that says nothing about its video. One in five combines two kinds of junk."""
    kinds = rng.sample(tuple(JUNK), 2 if rng.random() < 0.2 else 1)
    return " ".join(JUNK[kind](rng) for kind in kinds)


def untidy(caption: str, rng: random.Random) -> str:
    """Return the caption with random case, final punctuation and spaces."""
    caption = rng.choice((caption, caption, caption.capitalize(), caption.title(), caption.upper()))
    return caption + rng.choice(("", "", ".", "!", " ...", " "))
