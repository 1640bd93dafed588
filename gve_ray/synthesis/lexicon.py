"""English word lists and patterns used by the checks of composed queries in validate.py."""

import re

# "the man who kneads", "where it kneads": a verb recognized by its position, for verbs that are in no list.
CLAUSE_VERB = re.compile(r"\b(?:that|which|who|it|he|she|they)\s+(?!(?:is|was|has|does)\b)[a-z]{3,}s\b")

_MEDIUM = (
    r"(?:image|picture|photo|photograph|frame|still|screenshot|shot|clip|footage|recording|segment|snippet|"
    r"excerpt|reference)"
)
BINDING = re.compile(
    r"\b(?:this|these|the same|same|shown|pictured|depicted|displayed|seen here|here"
    rf"|(?:that|the|given|provided|reference|query)\s+{_MEDIUM})\b(?:\s+{_MEDIUM}\b)?",
    re.IGNORECASE,
)

GRAMMAR_WORDS = frozenset(
    """
    a an the and or but nor so as at by for from in into of off on onto out over to up down with without
    within is are was were be been being has have had do does did can could will would may might must
    should shall i you he she it we they me him her us them his hers its their theirs our your my who whom
    whose which what that this these those there here where when why how not no never only also too very
    just than then if while during before after until between under above below near through across along
    around about against any some all each every both either neither more most much many few other another
    such own same again video videos clip clips movie film footage recording image images picture pictures
    photo frame frames still scene scenes shot find show shows search look looking target reference query
    one ones
    """.split()
)
VAGUE_WORDS = frozenset(
    """
    thing things something anything everything nothing object objects subject subjects item items stuff
    entity someone somebody anyone person's part parts way kind sort type different similar same new next
    version moment action motion scene shot
    """.split()
)
NEGATIONS = frozenset(
    """
    no not never without neither nor none nobody nothing instead isn't doesn't don't didn't won't cannot
    can't isn’t doesn’t don’t didn’t won’t can’t
    """.split()
)
SEQUENCE_CLAIMS = frozenset(
    """
    then afterwards afterward later subsequently eventually finally gradually meanwhile previously quickly
    slowly rapidly swiftly suddenly faster slower speeds accelerates accelerating
    """.split()
)
RELATION_WORDS = frozenset(
    """
    before after afterwards next then later earlier follows following continues continued continuation
    start beginning end ending rest remainder whole full entire complete longer shorter clearer larger
    smaller bigger sharper brighter darker closer wider higher lower blurred blurry resolution quality
    view viewpoint angle perspective camera zoom closeup close-up side above behind distance instead but
    except different faster slower once twice again more less
    """.split()
)
DYNAMIC_WORDS = frozenset(
    """
    accelerate appear approach arrive ascend become becomes begin bend blink blow bounce break bring bump
    burn carry catch change chase climb collapse collide come continue contract cook crawl cross cut dance
    dart descend disappear dive drag draw drift drink drive drop eat emerge end enter exit expand explode
    fade fall feed fight fill finish flap flash flicker flip float flow fly fold follow gallop get gets
    give glide go goes grab grow hang hit hold hop hover hug jog join jump kick kneel land laugh launch
    lay leap leave lie lift march melt merge mix motion move movement open orbit overtake pace pan pass
    pause pedal perform pick play pour press proceed pull push put raise reach recede remain repeat rest
    return reverse ride rise roll rotate rub run rush sail scatter shake shatter shift shoot shrink sing
    sit skate ski skid skip slam sleep slice slide slip slow smile spin splash split spread sprint stand
    start stay step stir stop stretch stroll swap sway sweep swim swing switch talk tap tear throw tilt
    toss touch transform travel trot try tumble turn twirl twist vanish vibrate wag wait wake walk wander
    wash watch wrap write yawn zoom ran went came rose fell flew swam sang spun swung threw drove rode
    shook broke began became got gave grew drew ate drank sat stood stuck struck slid stole tore woke
    wrote after afterwards before during finally gradually later meanwhile next once slowly quickly
    suddenly then until while when eventually again faster slower
    """.split()
)
ING_NOUNS = frozenset(
    """
    anything building ceiling clothing during evening everything lightning morning nothing painting
    something drawing spring string wedding railing awning siding earring clearing crossing dwelling
    interesting
    """.split()
)
NO_ATTRIBUTE = GRAMMAR_WORDS | VAGUE_WORDS | RELATION_WORDS
