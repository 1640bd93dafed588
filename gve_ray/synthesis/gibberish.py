"""Detect gibberish: measure with letter-pair statistics how unlike Latin-script languages a text is.

The model is the highest, over languages, of the probability of each letter after the one before it,
counted in the paragraphs below (our own; accents are dropped). It separates keyboard mash and random
letters from words in languages that are not even listed, because pairs like "xk", "qz" or "wj" are rare
in all of them. A language is added by adding a paragraph.
"""

import math
import unicodedata
from collections import Counter
from functools import cache, lru_cache
from itertools import pairwise

PARAGRAPHS = {
    "en": """
        A young woman in a yellow jacket walks her dog along the quiet beach while waves roll in
        behind them. Three cyclists ride up a steep mountain road, then stop next to a wooden bridge
        to drink water. The chef chops onions quickly, throws them into a hot pan and shakes it
        twice. Children jump from the edge of a swimming pool; one of them splashes the camera. At
        night a bright red car drives through an empty city street, its headlights shining on wet
        ground. A small black kitten plays with a ball of wool, rolls over and falls asleep. Workers
        in helmets lift a heavy beam with a crane. The camera zooms slowly into a field of
        sunflowers moving in the wind. Two boxers exchange punches before the judge stops the fight.
        A green triangle moves left, spins around and shrinks beside a large square. Someone knits a
        scarf, a fox digs under the fence, a jazz trio plays, an athlete throws a javelin and the
        crowd cheers. Purple balloons rise above the objects on the left side of the picture. A
        rhythmic gymnast twirls a ribbon with both hands, bends backwards and smiles. Bicycle
        mechanics fix brakes, pharmacists mix powders, surgeons wash up, hairdressers dye curls.
        Lightning strikes an old church while thick smoke drifts from chimneys. Squirrels hop across
        frozen ponds; swans glide by. Elderly couples waltz slowly, toddlers giggle, teenagers
        skateboard down handrails and high-five. Close-up view of mushrooms, butterfly wings, rusty
        pipes, sphinx statues, yachts, pyramids, a knight's sword, hummingbirds, wristwatches,
        symbols drawn with chalk, typewriter keys, jewels, zebras, kiwis.
        """,
    "de": """
        Eine junge Frau in einer gelben Jacke geht mit ihrem Hund am ruhigen Strand entlang, während
        hinter ihnen die Wellen rollen. Drei Radfahrer fahren eine steile Bergstraße hinauf und
        halten neben einer Holzbrücke. Der Koch schneidet schnell Zwiebeln, wirft sie in eine heiße
        Pfanne und schüttelt sie zweimal. Kinder springen vom Rand eines Schwimmbeckens. Nachts
        fährt ein rotes Auto durch eine leere Straße. Ein Kätzchen spielt mit einem Wollknäuel und
        schläft ein. Handwerker heben einen schweren Balken. Zwei Boxer kämpfen, ein Fuchs gräbt
        unter dem Zaun, das Publikum klatscht.
        """,
    "fr": """
        Une jeune femme en veste jaune promène son chien le long de la plage tranquille tandis que
        les vagues roulent derrière eux. Trois cyclistes montent une route de montagne, puis
        s'arrêtent près d'un pont de bois pour boire. Le cuisinier coupe vite les oignons, les jette
        dans une poêle chaude et la secoue deux fois. Des enfants sautent dans la piscine. La nuit,
        une voiture rouge traverse une rue vide. Un petit chat noir joue avec une pelote de laine et
        s'endort. Quelques ouvriers soulèvent une poutre lourde, jusqu'au toit, puis la foule
        applaudit.
        """,
    "es": """
        Una mujer joven con chaqueta amarilla pasea a su perro por la playa tranquila mientras las
        olas ruedan detrás. Tres ciclistas suben por una carretera de montaña y paran junto a un
        puente de madera. El cocinero corta rápido las cebollas, las echa en una sartén caliente y
        la sacude dos veces. Unos niños saltan a la piscina. Por la noche un coche rojo cruza una
        calle vacía. Un gato pequeño juega con un ovillo de lana y se duerme. Los obreros levantan
        una viga, el zorro cava, el público aplaude.
        """,
    "it": """
        Una giovane donna con una giacca gialla porta a spasso il cane lungo la spiaggia tranquilla
        mentre le onde rotolano dietro di loro. Tre ciclisti salgono per una strada di montagna e si
        fermano accanto a un ponte di legno. Il cuoco taglia le cipolle, le getta in una padella
        calda e la scuote due volte. I bambini saltano nella piscina. Di notte un'auto rossa
        attraversa una via vuota. Un gattino gioca con un gomitolo di lana e si addormenta. Gli
        operai sollevano una trave pesante, il pubblico applaude.
        """,
    "pt": """
        Uma jovem de casaco amarelo passeia com o cão pela praia tranquila enquanto as ondas rolam
        atrás deles. Três ciclistas sobem uma estrada de montanha e param junto a uma ponte de
        madeira para beber água. O cozinheiro corta as cebolas, lança-as numa frigideira quente e
        sacode-a duas vezes. As crianças saltam para a piscina. À noite um carro vermelho atravessa
        uma rua vazia. Um gatinho preto brinca com um novelo de lã e adormece. Os trabalhadores
        levantam uma viga pesada, o público aplaude.
        """,
    "nl": """
        Een jonge vrouw in een gele jas loopt met haar hond langs het rustige strand terwijl de
        golven achter hen rollen. Drie fietsers rijden een steile bergweg op en stoppen bij een
        houten brug. De kok snijdt snel uien, gooit ze in een hete pan en schudt die twee keer.
        Kinderen springen in het zwembad. 's Nachts rijdt een rode auto door een lege straat. Een
        klein katje speelt met een bol wol en valt in slaap. Arbeiders tillen een zware balk op, een
        vos graaft onder het hek, het publiek juicht.
        """,
    "pl": """
        Młoda kobieta w żółtej kurtce spaceruje z psem wzdłuż spokojnej plaży, a za nimi toczą się
        fale. Trzech rowerzystów wjeżdża stromą górską drogą i zatrzymuje się przy drewnianym
        moście. Kucharz szybko kroi cebulę, wrzuca ją na gorącą patelnię i dwa razy nią potrząsa.
        Dzieci skaczą do basenu. Nocą czerwony samochód przejeżdża przez pustą ulicę. Mały czarny
        kotek bawi się kłębkiem wełny i zasypia. Robotnicy podnoszą ciężką belkę, publiczność bije
        brawo.
        """,
    "cs": """
        Mladá žena ve žluté bundě jde se psem podél klidné pláže, zatímco se za nimi valí vlny. Tři
        cyklisté stoupají po strmé horské silnici a zastaví u dřevěného mostu. Kuchař rychle krájí
        cibuli, hodí ji na horkou pánev a dvakrát s ní zatřese. Děti skáčou do bazénu. V noci
        projíždí červené auto prázdnou ulicí. Malé černé kotě si hraje s klubkem vlny a usíná.
        Dělníci zvedají těžký trám.
        """,
    "sv": """
        En ung kvinna i gul jacka går med sin hund längs den lugna stranden medan vågorna rullar
        bakom dem. Tre cyklister kör uppför en brant bergsväg och stannar vid en träbro. Kocken
        hackar lök, kastar den i en het panna och skakar den två gånger. Barn hoppar i simbassängen.
        På natten kör en röd bil genom en tom gata. En liten svart kattunge leker med ett garnnystan
        och somnar. Arbetare lyfter en tung bjälke, en räv gräver under staketet, publiken jublar.
        """,
    "tr": """
        Sarı ceketli genç bir kadın, arkalarında dalgalar yuvarlanırken köpeğiyle sakin sahilde
        yürüyor. Üç bisikletçi dik bir dağ yolunu çıkıyor ve ahşap bir köprünün yanında duruyor.
        Aşçı soğanları hızla doğruyor, sıcak tavaya atıyor ve iki kez sallıyor. Çocuklar havuza
        atlıyor. Gece kırmızı bir araba boş bir sokaktan geçiyor. Küçük siyah bir kedi yün yumağıyla
        oynuyor ve uyuyor. İşçiler kirişi kaldırıyor.
        """,
    "ro": """
        O femeie tânără cu jachetă galbenă își plimbă câinele pe plaja liniștită în timp ce valurile
        se rostogolesc în spatele lor. Trei bicicliști urcă un drum de munte și se opresc lângă un
        pod de lemn. Bucătarul taie repede ceapa, o aruncă în tigaia fierbinte și o scutură de două
        ori. Copiii sar în piscină. Noaptea o mașină roșie traversează o stradă goală. Un pisoi
        negru se joacă și adoarme.
        """,
    "fi": """
        Nuori nainen keltaisessa takissa kävelee koiransa kanssa pitkin rauhallista rantaa, ja
        aallot vyöryvät heidän takanaan. Kolme pyöräilijää nousee jyrkkää vuoristotietä ja pysähtyy
        puisen sillan viereen. Kokki pilkkoo sipulit, heittää ne kuumalle pannulle ja ravistaa sitä
        kahdesti. Lapset hyppäävät uima-altaaseen. Yöllä punainen auto ajaa tyhjän kadun läpi. Pieni
        kissa nukahtaa.
        """,
    "id": """
        Seorang wanita muda berjaket kuning berjalan bersama anjingnya di sepanjang pantai yang
        tenang sementara ombak bergulung di belakang mereka. Tiga pesepeda mendaki jalan gunung yang
        curam lalu berhenti di dekat jembatan kayu. Juru masak memotong bawang, melemparkannya ke
        wajan panas. Anak-anak melompat ke kolam renang. Malam hari sebuah mobil merah melintasi
        jalan kosong. Seekor kucing tidur.
        """,
    "vi": """
        Một phụ nữ trẻ mặc áo khoác vàng dắt chó đi dọc bãi biển yên tĩnh trong khi sóng vỗ phía
        sau. Ba người đạp xe leo lên con đường núi dốc rồi dừng lại bên cây cầu gỗ. Đầu bếp cắt hành
        thật nhanh, ném vào chảo nóng. Trẻ em nhảy xuống hồ bơi. Ban đêm một chiếc ô tô đỏ chạy qua
        con phố vắng.
        """,
}

_EDGE = " "
_LETTERS = "abcdefghijklmnopqrstuvwxyz" + _EDGE
_FLOOR = 0.0005  # probability of a pair that occurs in no paragraph
_PRIOR = 10.0  # weight, in pairs, of the statistics over all languages in each language
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
# Neighboring keys of a row, in both directions.
_NEIGHBOURS = frozenset(pair for row in _KEYBOARD for a, b in pairwise(row) for pair in (a + b, b + a))


@lru_cache(maxsize=65_536)  # each caption's words are looked up four times, and captions share most words
def plain_letters(word: str) -> str:
    """Lower-case a-z of a word: accents dropped, ligatures resolved, everything else removed."""
    text = word.lower().replace("ß", "ss").replace("æ", "ae").replace("ø", "o").replace("œ", "oe")
    text = text.replace("ł", "l").replace("đ", "d").replace("ı", "i").replace("þ", "th").replace("ð", "d")
    return "".join(c for c in unicodedata.normalize("NFD", text) if "a" <= c <= "z")


@cache
def _tables() -> tuple[dict[str, float], ...]:
    """Per language: bits (-log2 probability) of each letter after the one before it."""
    counts = []
    for text in PARAGRAPHS.values():
        words = [_EDGE + plain_letters(word) + _EDGE for word in text.split()]
        counts.append(Counter(word[i : i + 2] for word in words for i in range(len(word) - 1)))
    return tuple(_bits(language, sum(counts, Counter())) for language in counts)


def _bits(language: Counter[str], everywhere: Counter[str]) -> dict[str, float]:
    """Return bits per pair: the language's counts smoothed with those of all languages, with a floor."""
    bits: dict[str, float] = {}
    for a in _LETTERS:
        language_total = sum(language[a + b] for b in _LETTERS)
        total = sum(everywhere[a + b] for b in _LETTERS)
        for b in _LETTERS:
            overall_share = everywhere[a + b] / max(total, 1)
            share = (language[a + b] + _PRIOR * overall_share) / (language_total + _PRIOR)
            bits[a + b] = -math.log2(max(share, _FLOOR))
    return bits


def strangeness(text: str) -> float:
    """Mean bits a letter pair of a text costs in the language that suits it best; 0 without Latin letters.

    Words of any Latin-script language cost about 2 to 3.5, random letters above 4.
    """
    pairs = [
        word[i : i + 2]
        for word in (_EDGE + plain_letters(part) + _EDGE for part in text.split())
        if len(word) > 2
        for i in range(len(word) - 1)
    ]
    if not pairs:
        return 0.0
    return min(sum(table[pair] for pair in pairs) for table in _tables()) / len(pairs)


def keyboard_share(word: str) -> float:
    """Share of letter pairs that lie side by side on a keyboard's row; 0 for fewer than 4 letters."""
    letters = plain_letters(word)
    if len(letters) < 4:
        return 0.0
    pairs = [letters[i : i + 2] for i in range(len(letters) - 1)]
    return sum(pair in _NEIGHBOURS for pair in pairs) / len(pairs)
