"""Recognize text of web sites that describes no video, such as menus and notices, in a dozen languages.

A strong phrase is enough by itself. Weak words count only when several occur together, because a
single word is ambiguous ("a baker takes cookies out of the oven").
"""

import re
from functools import cache, lru_cache

# A single match of one of these marks a text as site text.
_STRONG = (
    # rights
    r"(all|some) rights? reserved|tous droits? r[ée]serv[ée]s|alle rechten? (vorbehalten|voorbehouden)",
    r"(todos )?(los |os )?(derechos|direitos) reservados|tutti i diritti( sono)? riservati",
    r"wszelkie prawa zastrze[żz]one|все права защищены|t[üu]m haklar[ıi] sakl[ıi]d[ıi]r|"
    r"無断転載|版权所有|著作権|"
    r"版權所有",
    r"alla r[äa]ttigheter (f[öo]rbeh[åa]llna|reserverade)|alle rettigheter|kaikki oikeudet|모든 권리|"
    r"جميع الحقوق|v[šs]echna pr[áa]va",
    r"(©|\(c\)|copyright)\s*(©|\(c\))?\s*(19|20)\d\d|toate drepturile rezervate|minden jog fenntartva|"
    r"hak cipta",
    # consent and privacy
    r"(we|this (web)?site|our (web)?site|by continuing|accept|uses?|using)\b.{0,40}\bcookies?\b|"
    r"\bcookies?\b.{0,20}\b(policy|settings|preferences|consent|banner|notice|richtlinie|einstellungen|"
    r"hinweis)",
    r"cookies?\s*(zu|ein|akzept|accept|accett|aceit|acept|verwend|polic|consent)|(akzept|accept|accett|"
    r"aceit|acept|verwend|utilis|utiliz|usa|gebruik|używ|använd|käyt|kullan|použív|"
    r"folosi)\w*\b.{0,40}\bcookie|файл\w* cookie|куки|クッキー|çerez|쿠키|evästei|ciasteczk",
    r"privacy (policy|notice|statement)|datenschutz|politique de confidentialit|(pol[íi]tica|"
    r"aviso) de (privacidad|privacidade)|informativa sulla privacy|privacyverklaring|privacybeleid|"
    r"polityk\w+ prywatno|политик\w+ конфиденциальности|gizlilik|隐私|隱私|プライバシー|개인정보",
    r"terms (of (use|service)|(and|&) conditions)|nutzungsbedingungen|"
    r"allgemeine gesch[äa]ftsbedingungen|\bagb\b|impressum|conditions (g[ée]n[ée]rales|"
    r"d['’]utilisation)|mentions l[ée]gales|t[ée]rminos (y condiciones|de (uso|servicio))|aviso legal|"
    r"termini (di servizio|e condizioni)|condizioni d['’]uso|termos (de (uso|servi[çc]o)|e condi)|"
    r"algemene voorwaarden|regulamin serwisu|пользовательское соглашение|kullan[ıi]m ko[şs]ullar[ıi]|"
    r"利用規約|使用条款|服务条款|이용약관",
    # pages that are not there, players that do not play
    r"page (not found|cannot be found)|\b(404|403|500)\b.{0,12}(error|not found|forbidden)|error (404|"
    r"403|500)|access denied|seite nicht gefunden|page introuvable|p[áa]gina no encontrada|"
    r"pagina non trovata|страница не найдена",
    r"(enable|activate|turn on|requires?|включите|aktivieren|activez|activer|active|habilit\w*|"
    r"attiva\w*)\b.{0,20}\bjavascript|javascript\b.{0,30}(enabled?|required|disabled|aktivier|activ)",
    r"(browser|navigateur|navegador)\b.{0,40}(does ?n[o']t support|not supported|unterst[üu]tzt|"
    r"ne (prend|supporte)|no (es compatible|soporta))",
    r"(video|content|this)\b.{0,30}\b(is )?(unavailable|not available|no longer available|"
    r"has been removed|is private)|(nicht( mehr)?|non|no( est[áa])?|n['’]est (pas|plus)|"
    r"не) (verf[üu]gbar|disponibles?|disponibile|dispon[íi]vel|доступно)",
    r"lorem ipsum|this (post|page|article|video) (is|was) (sponsored|brought)|add to (cart|bag|basket|"
    r"wishlist|favou?rites)|in den warenkorb|ajouter au panier|a[ñn]adir al carrito|"
    r"aggiungi al carrello|в корзину|カートに入れる|加入购物车|sepete ekle",
    r"(sign|log) ?(in|up) (to|or|with|for)|create an? (free )?account|forgot (your )?password|"
    r"jetzt (anmelden|registrieren|bestellen|kaufen|herunterladen|ansehen|abonnieren)|((se|"
    r"vous) connecter|connectez-vous|inscrivez-vous|s['’]inscrire)|(iniciar sesi[óo]n|reg[íi]strate|"
    r"inicia sesi)|(accedi|registrati)( ora| per|$)|(inicie|fazer|fa[çc]a) (sess[ãa]o|login)|"
    r"zaloguj si[ęe]|войти|зарегистр|giri[şs] yap|ログイン|登录|登錄|로그인",
    r"skip to (main )?content|back to top|read (more|the full)|show (more|less)|load more|view all|"
    r"see (more|all)|learn more|mehr (erfahren|lesen|anzeigen)|weiterlesen|en savoir plus|lire la suite|"
    r"voir plus|leer m[áa]s|ver m[áa]s|m[áa]s informaci[óo]n|leggi (di pi[ùu]|tutto)|scopri di pi[ùu]|"
    r"saiba mais|leia mais|lees (meer|verder)|czytaj (wi[ęe]cej|dalej)|l[äa]s mer|читать (далее|"
    r"полностью)|подробнее|devam[ıi]n[ıi] oku|続きを読む|もっと見る|阅读更多|查看更多|더 ?보기",
    r"(powered|published|uploaded|posted|submitted|provided) by\b|(free|kostenloser?|gratis|livraison|"
    r"env[íi]o|spedizione|frete) (shipping|versand|verzending|gratuite?|gratis|gratuita|gr[áa]tis)|"
    r"доставка|inkl\.? mwst|zzgl\.? versand|customer reviews?|out of stock",
)

# Requests to the viewer.
_CALLS = (
    r"\bclick (here|below|the|this|on|now|link|to)|\bclick\b.{0,15}\b(link|button|bell)|\b(tap|follow|"
    r"hit|use|see|open|check) the (link|bell|button)|link(s)? (is |are )?(in|im|en|nella|na|"
    r"in der) (the |my |our |la |a )?(bio|description|profile|comments?|beschreibung|descripci[óo]n|"
    r"descri[çc][ãa]o)|swipe (up|left|right) (to|for)",
    r"\b(like|share|comment|subscribe|follow)\b\s*(,|&|\+|and|und|et|y|e|/)\s*\b(like|share|comment|"
    r"subscribe|follow|repost|save)|smash (that|the) like|(hit|ring|press|turn on) (the |that )?(bell|"
    r"notification)|don['’]?t forget to|dont forget",
    r"\bsubscri(be|bed|bing)\b.{0,30}\b(to|for|now|my|our|channel|today|newsletter|more|free)|(^|"
    r"[.!]\s*)(please )?subscribe\b|newsletter|notification squad",
    r"\b(watch|see|view|stream|download|buy|order|shop|get|book|try|join|play|call|register|install|"
    r"enter|donate|vote)\b.{0,12}\b(now|today|here|yours|free)\b\W*$",
    r"\b(watch|see|get|download) (the )?(full|whole|complete|entire) (video|movie|episode|film|version|"
    r"clip|hd)|full (video|movie|episode) (on|at|here|hd|in|link)|\b(free|hd|full|instant) download|"
    r"download (free|hd|mp4|the app|our app|it now)|watch (online|free|till|until|to the) ",
    r"\b(follow|add|dm|message|contact|call|text|email|tag) (me|us|him|her|@|a friend|your)|\b(check|"
    r"checkout) (out )?(my|our|the full|this|these|more|us)|visit (us|our|my|the) |for more (info|"
    r"information|details|videos|content|tips|updates|great|like)|more (info|information|details|"
    r"videos) (at|on|in|here|below)",
    r"\bbuy (now|one|2|online|tickets)|\border (now|online|yours)|\b(limited|special) (time |)(offer|"
    r"edition offer)|\b\d{1,2}\s?% off|promo code|coupon|discount code|use (my )?code|(giveaway|"
    r"sale ends)|stay tuned|thanks? (you )?for (watching|viewing|visiting|your support)|"
    r"part \d+ (is )?(out|coming|soon)|coming soon|(let me|let us) know in the|what do you think|(leave|"
    r"drop) a (comment|like)|comment (below|down)|turn (up|on) (the |your )?(sound|volume)|wait (for it|"
    r"till the end|until the end)",
    r"(doctors?|experts?|lawyers|banks|they|everyone) (hates?|don['’]?t want you)|(this|"
    r"these) (one )?(simple |weird |easy |little )+(tricks?|hacks?|tips?)|(will|gonna|going to) (shock|"
    r"surprise|blow|amaze|change|make you|leave you)|only \d+\s?(%|percent|people|out of)|"
    r"\bnumber \d+ (will|is)|(my|our|the|this|your) (youtube |new )?channel\b|\bcheck (it|me|us|this|"
    r"that|them) out\b|(tag|send this to) (a|your|someone)|can you (spot|guess|find)|you (won['’]?t|"
    r"will not|wont) believe|must[- ](see|watch)|gone (wrong|viral)|(going|go) viral|(not|"
    r"never) clickbait|(top|best) \d+\b.{0,40}(ever|20\d\d)|(watch|see) (what|how|why|this|it|him|her|"
    r"them) (happens|before|until|till|will)|(^|\W)omg(\W|$)|what happens? next",
    # other languages
    r"hier klicken|klick(en|t)? (sie |hier|jetzt|auf|mal)|jetzt (hier|klicken)|abonnier|"
    r"kanal (abonnieren|folgen)|folg(t|en sie|e) (uns|mir)|nicht vergessen|teilen und|daumen (hoch|"
    r"nach oben)",
    r"cliquez|clique (aqui|no|em)|abonnez|abonne-toi|likez|partagez|suivez[- ](nous|moi)|"
    r"n['’]oubliez pas|activez la cloche|regardez (la|notre|jusqu)|t[ée]l[ée]charge(z|r)",
    r"ha[zg]\w* clic|haga clic|pulsa aqu[íi]|suscr[íi]b|s[íi]gue(nos|me)|no (te )?olvides|"
    r"dale (a )?(like|me gusta)|comp[áa]rte|desc[áa]rga|mira (el v[íi]deo completo|ahora)|"
    r"activa la campan",
    r"clicca|iscri(viti|vetevi)|seguici|seguimi|non dimentica|condividi(te)?\b|attiva la campanella|"
    r"scarica (ora|gratis|subito)|guarda (ora|subito|il video completo)",
    r"inscrev(a|e)|siga[- ](nos|me)|n[ãa]o (se )?esque[çc]a|deixe (o |seu )|compartilh|ative o sin|"
    r"baixe (agora|gr[áa]tis)|assista (agora|at[ée])",
    r"klik (hier|op|tutaj|tu\b|disini|di sini)|kliknij|abonneer|volg ons|subskryb|zasubskrybuj|obserwuj|"
    r"polub|udost[ęe]pnij|prenumerera|f[öo]lj oss|klicka|klikkaa|tilaa (kanava|uutis)|abone ol|be[ğg]en|"
    r"t[ıi]klay|takip et",
    r"подпи[сш]|нажми|жми|ставь\w* лайк|лайк|переход\w+ по ссылке|смотр\w+ (онлайн|бесплатно|полностью|"
    r"до конца)|скача(ть|йте)|поделит|не забудь",
    r"チャンネル登録|高評価|フォロー(して|お願い|よろしく)|クリック|ご覧(いただき|ください)|ダウンロード|"
    r"点击|點擊|订阅|訂閱|关注我|点赞|转发|下载|구독|좋아요|클릭|알림 ?설정|"
    r"اشترك|اضغط|تابعونا|انقر|सब्सक्राइब|क्लिक|לחצו|הירשמו|đăng k[ýy]|nhấn (vào|nút)|odebír|"
    r"sledujte n[áa]s|klikněte|abona[țt]i|urm[ăa]ri[țt]i-ne|iratkozz",
)

# Weak words of menus and footers: they count by their share of the text.
_WEAK = frozenset(
    """
    home about contact faq login logout signup register account profile menu search help support blog
    news careers sitemap privacy policy cookie cookies terms conditions copyright subscribe newsletter
    follow share tweet pin email comments reply views likes uploader channel playlist website site page
    browser javascript loading buffering skip ad ads advert advertisement sponsored download upload
    settings language english next previous prev play pause mute unmute fullscreen autoplay embed report
    flag cart checkout shipping returns startseite über kontakt hilfe anmelden abmelden registrieren
    konto suche einstellungen werbung anzeige teilen gefällt kommentare aufrufe datenschutz impressum
    seite webseite laden herunterladen weiter zurück kostenlos accueil connexion déconnexion inscription
    compte recherche aide publicité partager commentaires vues suivant précédent télécharger inicio
    contacto acceder registrarse cuenta buscar ayuda publicidad anuncio compartir comentarios visitas
    siguiente anterior descargar contatti accesso registrati cerca aiuto pubblicità condividi commenti
    visualizzazioni avanti indietro scarica início contato entrar conta ajuda publicidade compartilhar
    comentários visualizações próximo baixar strona główna zaloguj szukaj pomoc reklama udostępnij
    komentarze wyświetleń dalej wstecz pobierz главная контакты вход поиск помощь реклама поделиться
    комментарии просмотры далее назад скачать anasayfa iletişim giriş hesap ara yardım reklam paylaş
    yorumlar sonraki indir hem logga sök hjälp annons dela nästa föregående ladda
    """.split()
)

# Words without content in the languages a caption is likely to be in.
FILLER = frozenset(
    """
    a an the this that these those my your our his her their its it is are was be i we you he she they
    and or of in on at to for with from by as so very no not new old some all more most just here there
    one me us what how why when der die das ein eine einen dem den mein dein unser und oder von im auf
    zu für mit ist sehr neu neue neues le la les un une des du de mon ton notre et ou dans sur pour avec
    est très nouveau nouvelle el los las una unos mi tu su y o en con por para es muy nuevo nueva il lo
    gli uno mio tuo e nel per molto nuovo nuova os um uma meu seu em com muito novo nova
    """.split()
)

# Placeholder titles.
PLACEHOLDERS = frozenset(
    """
    video videos vid vids clip clips movie movies film films footage recording record untitled unnamed
    unknown undefined null none nan na n/a test tests testing demo sample example temp tmp draft final
    copy export render output file upload uploaded media item content title description desc caption
    captions name text placeholder todo tbd default blank empty missing available unavailable part
    episode ep version hd uhd fullhd fps full raw edit edited trailer teaser intro outro preview
    official original mp4 mov avi mkv webm gif jpg png sequence project track no number num id date
    today yesterday monday tuesday wednesday thursday friday saturday sunday vlog reel reels shorts
    short story stories post fyp foryou foryoupage viral trending ohne titel unbenannt unbekannt
    beschreibung aufnahme sans titre inconnu vidéo vidéos sin título desconocido vídeo vídeos
    descripción senza titolo sem bez nazwy без названия видео описание başlıksız 無題 動画 ビデオ
    视频 未命名 無標題 제목
    없음 영상 동영상
    """.split()
)

# Feelings about a video, not its content.
INTERJECTIONS = frozenset(
    """
    wow omg lol lmao rofl haha hahaha hahahaha hehe yay oh ooh aah wtf damn hey hi hello guys everyone
    everybody amazing awesome cool nice great best good wonderful beautiful incredible unbelievable epic
    insane crazy funny hilarious cute lovely perfect super fantastic love loved like likes ever enjoy
    interesting must see watch watching look check fun happy so thanks thank please pls plz yes yeah yep
    nope ok okay really much soon wait friends fam vibes mood goals blessed toll geil schön klasse danke
    bitte hallo lustig merci bonjour génial trop drôle gracias hola increíble genial bonito lindo grazie
    ciao bello fantastico obrigado olá incrível legal супер класс круто привет спасибо
    """.split()
)

_WORD = re.compile(r"[^\W\d_]+(?:['’/][^\W\d_]+)*")


@cache
def _compiled(which: str) -> tuple[re.Pattern[str], ...]:
    """The lines of a table, each a pattern of lower-case letters.

    Joined into one, or told to ignore case, `re` no longer knows how a match begins: four times as slow.
    """
    return tuple(re.compile(line) for line in (_STRONG if which == "strong" else _CALLS))


def _says(which: str, text: str) -> bool:
    lower = text.lower().replace("i\u0307", "i")  # what lower() makes of the Turkish capital İ
    return any(pattern.search(lower) for pattern in _compiled(which))


@lru_cache(maxsize=64)  # a caption of one sentence is checked as a part, then as a whole
def site_text(text: str) -> bool:
    """Return whether a text is site text: consent, rights, menus, errors or shops, in a dozen languages."""
    if _says("strong", text):
        return True
    words = _WORD.findall(text.lower())
    weak = sum(word in _WEAK for word in words)
    return weak >= 2 and weak >= 0.5 * len(words)


@lru_cache(maxsize=64)
def call_to_action(text: str) -> bool:
    """Return whether a text asks its reader to do something: click, subscribe, buy, share."""
    return _says("calls", text)
