import json
import os

import numpy as np
import pytest
from PIL import Image

from gve_ray.demo.render import encode_mp4
from gve_ray.evaluation.data import layouts
from gve_ray.evaluation.data.layouts import CORPUS, INSTANCES, QUERIES, check_media, load, load_mteb
from gve_ray.media import DecodePool, Limits, encode_jpeg, read_frames

GREY = np.full((56, 56, 3), 90, np.uint8)
JPEG = encode_jpeg(GREY)
TEXT_QUERIES = [{"id": f"q{i}", "text": f"scene {i}"} for i in range(3)]
VIDEOS = [{"id": f"v{i}", "video": f"v{i}.mp4"} for i in range(3)]
ANSWERS = [{"qid": f"q{i}", "pos": [f"v{i}"]} for i in range(3)]


def lines(path, rows):
    """Write rows as JSON lines; a row that is a string or bytes is written unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
             for row in rows]  # fmt: skip
    path.write_bytes(b"".join(part + b"\n" for part in parts))


def frames(root, name, n=3):
    """A folder of frames, from dark to bright."""
    folder = root / "videos_frames" / name
    folder.mkdir(parents=True)
    for i in range(n):
        (folder / f"{i:03d}.jpg").write_bytes(encode_jpeg(np.full((56, 56, 3), 40 * i, np.uint8)))
    return folder


def mp4(path, n=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_mp4(path, [np.full((64, 64, 3), 30 * i, np.uint8) for i in range(n)], fps=3, width=64, height=64)
    return path


def write(root, queries=TEXT_QUERIES, corpus=VIDEOS, instances=ANSWERS):
    lines(root / QUERIES, queries)
    lines(root / CORPUS, corpus)
    lines(root / INSTANCES, instances)


@pytest.fixture(scope="module", autouse=True)
def decoders():
    """Lend two child processes to all checks, for starting one takes longer than the media of a test."""
    pool = DecodePool(Limits(), 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "DecodeProcess", pool.lend)
        yield
    pool.close()


@pytest.fixture
def root(tmp_path):
    """A valid data set of three text queries and three videos, one of which is a file."""
    folder = tmp_path / "SET"
    frames(folder, "v0")
    frames(folder, "v1")
    mp4(folder / "videos" / "v2.mp4")
    write(folder)
    return folder


def error_lines(folder, *, frames=3, workers=1):
    """All errors of a data set as lines; its folders of frames have three pictures."""
    data = load(folder)
    errors = data.skipped + check_media(data, frames=frames, workers=workers)
    printed = [str(error) for error in errors]
    assert all("\n" not in line for line in printed)
    return printed


def test_a_valid_set(root):
    assert error_lines(root) == []
    data = load(root)
    assert (data.name, data.query_ids, data.corpus_ids) == ("SET", ["q0", "q1", "q2"], ["v0", "v1", "v2"])
    assert [item.text for item in data.queries] == ["scene 0", "scene 1", "scene 2"]
    assert data.positives == {f"q{i}": frozenset([f"v{i}"]) for i in range(3)}
    assert data.candidates is None
    # the first and last frame of the folder, whose first frame is the darkest
    assert [int(picture.mean()) for picture in read_frames(data.corpus[0].video, k=2).pixels] == [0, 80]
    assert data.corpus[2].video == str(root / "videos" / "v2.mp4")


def test_paths_are_absolute_and_the_name_can_be_set(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    data = load("SET", name="MSRVTT")
    assert data.name == "MSRVTT"
    assert all(os.path.isabs(item.video) for item in data.corpus)


def test_lines_of_the_same_query_are_merged_and_ids_may_be_numbers(root):
    queries = [{"id": 7, "text": "one"}, {"id": "8", "text": "two"}]
    instances = [{"qid": "7", "pos": ["v0"]}, {"qid": 8, "pos": ["v1"]}, {"qid": 7, "pos": ["v2", "v0"]}]
    write(root, queries=queries, instances=instances)
    assert error_lines(root) == []
    assert load(root).positives == {"7": frozenset(["v0", "v2"]), "8": frozenset(["v1"])}


def test_query_modalities(root):
    (root / "images").mkdir()
    Image.new("RGB", (60, 40)).save(root / "images" / "a.jpg")
    frames(root, "clips/c.1")  # a name with a dot and no extension
    queries = [
        {"id": "ti", "text": "then it stops", "image": "a.jpg"},
        {"id": "tv", "text": "from behind", "video": "clips/c.1"},
        {"id": "i", "image": "a.jpg", "text": None},
        {"id": "v", "video": "v2.mp4"},
    ]
    write(root, queries=queries, instances=[{"qid": entry["id"], "pos": ["v0"]} for entry in queries])
    assert error_lines(root) == []
    composed, continued, picture, clip = load(root).queries
    image, video = str(root / "images" / "a.jpg"), str(root / "videos_frames" / "clips" / "c.1")
    assert (composed.text, composed.image, composed.video) == ("then it stops", image, None)
    assert (continued.text, continued.image, continued.video) == ("from behind", None, video)
    assert (picture.text, picture.image) == (None, image)
    assert (clip.text, clip.video) == (None, str(root / "videos" / "v2.mp4"))


def test_nested_video_names_and_png_frames(root):
    folder = frames(root, "panda/clip-1", n=1)
    Image.new("RGB", (56, 56)).save(folder / "001.PNG")
    (folder / "notes.txt").write_text("not a frame")
    write(
        root,
        corpus=[{"id": "v0", "video": "panda/clip-1.mp4"}],
        instances=ANSWERS[:1],
        queries=TEXT_QUERIES[:1],
    )
    assert error_lines(root) == []
    assert read_frames(load(root).corpus[0].video, k=2).total_frames == 2


def test_frames_take_precedence_over_the_video(root):
    mp4(root / "videos" / "v0.mp4")
    assert load(root).corpus[0].video == str(root / "videos_frames" / "v0")


def test_candidates_are_in_corpus_order_and_include_positives(root):
    instances = [
        {"qid": "q0", "pos": ["v2"], "neg": ["v1"]},
        {"qid": "q1", "pos": ["v1"], "candidates": ["v2", "v0"]},
        {"qid": "q2", "pos": ["v0"], "candidates": ["v0", "v1"], "neg": ["v2"]},
    ]
    write(root, instances=instances)
    assert error_lines(root) == []
    assert load(root).candidates == {"q0": ("v1", "v2"), "q1": ("v0", "v1", "v2"), "q2": ("v0", "v1", "v2")}


def test_empty_candidate_lists_are_ignored(root):
    write(root, instances=[{**entry, "neg": [], "candidates": None} for entry in ANSWERS])
    assert error_lines(root) == []
    assert load(root).candidates is None


def test_a_query_without_its_list_of_candidates_is_left_out(root):
    instances = [{**ANSWERS[0], "neg": ["v1"]}, ANSWERS[1], {**ANSWERS[2], "candidates": ["v2"]}]
    write(root, instances=instances)
    assert error_lines(root) == [
        f"SET: {QUERIES} line 2: query 'q1': it has no candidates, although other queries have",
        f"SET: {QUERIES} line 3: query 'q2': its candidates contain no negative",
    ]
    assert load(root).candidates == {"q0": ("v0", "v1")}


def test_a_field_that_is_empty_in_every_line_is_ignored(root):
    (root / "images").mkdir()
    (root / "images" / "a.jpg").write_bytes(JPEG)
    images = [{"id": f"q{i}", "text": "", "image": "a.jpg"} for i in range(3)]
    write(root, queries=images)
    assert error_lines(root) == []
    write(root, queries=[{**images[0], "text": "and then it falls"}, *images[1:]])
    assert error_lines(root) == [f"SET: {QUERIES} line {n}: id 'q{n - 1}': empty text" for n in (2, 3)]


# One error each: the changed file, and the complete line that reports it.
LINE_ERRORS = {
    "empty text": (
        {"queries": [TEXT_QUERIES[0], {"id": "q1", "text": " \n"}, TEXT_QUERIES[2]]},
        f"{QUERIES} line 2: id 'q1': empty text",
    ),
    "nothing": (
        {"queries": [*TEXT_QUERIES[:2], {"id": "q2"}]},
        f"{QUERIES} line 3: id 'q2': no text, image or video",
    ),
    "text that is a number": (
        {"queries": [*TEXT_QUERIES[:2], {"id": "q2", "text": 5}]},
        f"{QUERIES} line 3: id 'q2': text=5: not a string",
    ),
    "lone surrogate": (
        {"queries": [*TEXT_QUERIES[:2], '{"id": "q2", "text": "\\ud800"}']},
        f"{QUERIES} line 3: id 'q2': text='\\ud800': it has a lone surrogate; write it as UTF-8",
    ),
    "duplicate query": (
        {"queries": [*TEXT_QUERIES, {"id": "q0", "text": "another"}]},
        f"{QUERIES} line 4: duplicate id 'q0'; line 1 has it and counts",
    ),
    "duplicate video": (
        {"corpus": [*VIDEOS, {"id": "v1", "video": "v2.mp4"}]},
        f"{CORPUS} line 4: duplicate id 'v1'; line 2 has it and counts",
    ),
    "no id": (
        {"queries": [*TEXT_QUERIES, {"text": "nobody's"}]},
        f"{QUERIES} line 4: id=None: give a non-empty string or a whole number",
    ),
    "not JSON": (
        {"queries": [*TEXT_QUERIES, '{"id": "q9", "text": "cut o']},
        f"{QUERIES} line 4: not JSON: Unterminated string starting at: line 1 column 22 (char 21)",
    ),
    "not UTF-8": (
        {"queries": [*TEXT_QUERIES, b'{"id": "q9", "text": "\xff"}']},
        f"{QUERIES} line 4: byte 0xff after "
        """'{"id": "q9", "text": "' is not UTF-8; if the file is Windows-1252 it is '\xff': """
        "save the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)",
    ),
    "not an object": (
        {"instances": [*ANSWERS, "[1, 2]"]},
        f"{INSTANCES} line 4: [1, 2]: not a JSON object; give one object a line, or name an array of objects .json",
    ),
    "unknown query": (
        {"instances": [*ANSWERS, {"qid": "q7", "pos": ["v0"]}]},
        f"{INSTANCES} line 4: unknown query id 'q7': {QUERIES} does not have it",
    ),
    "unknown second positive": (
        {"instances": [{"qid": "q0", "pos": ["v0", "v9"]}, *ANSWERS[1:]]},
        f"{INSTANCES} line 1: unknown corpus id 'v9' for query 'q0': {CORPUS} does not have it",
    ),
    "unknown only positive": (
        {"instances": [{"qid": "q0", "pos": ["v9"]}, *ANSWERS[1:]]},
        f"{INSTANCES} line 1: unknown corpus id 'v9' for query 'q0': {CORPUS} does not have it; "
        "so query 'q0' is left out",
    ),
    "no list": (
        {"instances": [{"qid": "q0", "pos": "v0"}, *ANSWERS[1:]]},
        f"{INSTANCES} line 1: pos='v0': give a list of corpus ids; so query 'q0' is left out",
    ),
    "query without instance": (
        {"instances": ANSWERS[:2]},
        f"{QUERIES} line 3: query 'q2': no line gives its positives",
    ),
    "path out of the folder": (
        {"corpus": [*VIDEOS, {"id": "v3", "video": "../SET/videos/v2.mp4"}]},
        f"{CORPUS} line 4: id 'v3': video='../SET/videos/v2.mp4': not a path inside the data set's folder",
    ),
}


def adds_up(data, in_file):
    """Every line of the query file is a query, an error there, or a query that another error
    excluded.
    """
    own = sum(error.where.startswith(f"{QUERIES} line") for error in data.skipped)
    excluded = sum(len(error.queries) for error in data.skipped)
    assert len(data.query_ids) + own + excluded == in_file
    assert set(data.positives) == set(data.query_ids)
    assert all(answers and answers <= set(data.corpus_ids) for answers in data.positives.values())


@pytest.mark.parametrize("change,line", LINE_ERRORS.values(), ids=LINE_ERRORS)
def test_each_invalid_line_is_reported_once_and_the_rest_is_kept(root, change, line):
    write(root, **change)
    data = load(root)
    assert [str(error) for error in data.skipped] == [f"SET: {line}"]
    adds_up(data, len(change.get("queries", TEXT_QUERIES)))


def test_many_errors_together(root):
    queries = [
        *TEXT_QUERIES,
        {"id": "q3", "text": ""},
        {"id": "q0", "text": "again"},
        "{",
        {"id": "q4", "text": "of a video without frames"},
        {"id": "q5", "text": "of nothing known"},
        {"id": "q6", "text": "of nothing at all"},
        {"id": "q7", "image": "gone.jpg"},
    ]
    corpus = [*VIDEOS, {"id": "v3", "video": "gone.mp4"}, {"id": "v0", "video": "v1.mp4"}]
    instances = [
        *ANSWERS,
        {"qid": "q3", "pos": ["v0"]},
        {"qid": "q4", "pos": ["v3"]},
        {"qid": "q5", "pos": ["v8", "v9"]},
        {"qid": "q7", "pos": ["v0"]},
        {"qid": "q8", "pos": ["v0"]},
    ]
    write(root, queries=queries, corpus=corpus, instances=instances)
    (root / "videos" / "v2.mp4").write_bytes(b"no video")
    places = [line.split(": ")[1] for line in error_lines(root)]
    assert places == [
        *(f"{QUERIES} line {n}" for n in (6, 4, 5)),  # invalid JSON is reported first
        f"{CORPUS} line 5",
        *(f"{INSTANCES} line {n}" for n in (6, 6, 8)),
        f"{QUERIES} line 9",
        "query id 'q7'",
        "corpus id 'v2'",
        "corpus id 'v3'",
    ]
    data = load(root)
    assert data.query_ids == ["q0", "q1", "q2", "q4", "q7"]
    assert data.corpus_ids == ["v0", "v1", "v2", "v3"]
    adds_up(data, len(queries))


def test_files_as_pandas_and_excel_write_them(root):
    """Ids that became floats, NaN for missing values, a byte order mark, and UTF-16."""
    queries = [{"id": 0.0, "text": "scene 0", "image": float("nan")}, {"id": 1.0, "text": float("nan")}]
    write(root, queries=queries, instances=[{"qid": 0, "pos": ["v0"]}, {"qid": 1.0, "pos": ["v1"]}])
    assert error_lines(root) == [
        f"SET: {QUERIES} line 2: id '1': no text, image or video",
    ]
    assert load(root).positives == {"0": frozenset(["v0"])}
    for encoding in ("utf-8-sig", "utf-16"):
        write(root)
        (root / CORPUS).write_bytes((root / CORPUS).read_text().encode(encoding))
        assert error_lines(root) == []


def test_files_that_do_not_exist_stay_in_the_data_set(root):
    """They count as misses, so `load` keeps their places, and the check of the media names them."""
    for path in (root / "videos_frames" / "v1").iterdir():
        path.unlink()
    queries = [*TEXT_QUERIES[:2], {"id": "q2", "image": "gone.jpg"}, {"id": "q3", "image": "x\u0000y"}]
    corpus = [*VIDEOS, {"id": "v3", "video": "deep/gone.mp4"}]
    write(root, queries=queries, corpus=corpus, instances=[*ANSWERS, {"qid": "q3", "pos": ["v3"]}])
    data = load(root)
    assert (data.skipped, data.query_ids) == ([], ["q0", "q1", "q2", "q3"])
    assert data.corpus_ids == ["v0", "v1", "v2", "v3"]
    assert [item.video for item in data.corpus[1:]] == [
        str(root / place) for place in ("videos_frames/v1", "videos/v2.mp4", "videos/deep/gone.mp4")
    ]
    image, no_name, empty, gone = error_lines(root)
    assert image.startswith(f"SET: query id 'q2': image '{root}/images/gone.jpg': unreadable: ")
    assert no_name.startswith("SET: query id 'q3': image ")
    assert empty.startswith(f"SET: corpus id 'v1': video '{root}/videos_frames/v1': empty: ")
    assert gone.startswith(f"SET: corpus id 'v3': video '{root}/videos/deep/gone.mp4': unreadable: ")


def test_queries_of_a_missing_video_are_reported_in_one_line(root):
    queries = [{"id": f"q{i}", "text": "a"} for i in range(5)]
    instances = [*({"qid": f"q{i}", "pos": ["v2"]} for i in range(4)), {"qid": "q4", "pos": ["v2", "v0"]}]
    write(root, queries=queries, corpus=[*VIDEOS[:2], {"id": "v2"}], instances=instances)
    assert error_lines(root) == [
        f"SET: {CORPUS} line 3: id 'v2': no text, image or video; "
        "so 4 queries ('q0', 'q1', 'q2', ...) are left out"
    ]
    data = load(root)
    assert data.positives == {"q4": frozenset(["v0"])}
    assert data.skipped[0].queries == ("q0", "q1", "q2", "q3")


def test_a_missing_candidate_is_removed_from_its_list(root):
    instances = [
        {"qid": "q0", "pos": ["v0"], "neg": ["v1", "v9"]},
        {"qid": "q1", "pos": ["v1"], "neg": ["v9"]},
    ]
    write(root, queries=TEXT_QUERIES[:2], instances=instances)
    unknown = f"unknown corpus id 'v9' for query 'q%d': {CORPUS} does not have it"
    assert error_lines(root) == [
        f"SET: {INSTANCES} line 1: {unknown % 0}",
        f"SET: {INSTANCES} line 2: {unknown % 1}; so query 'q1' is left out",
    ]
    assert load(root).candidates == {"q0": ("v0", "v1")}


def test_only_check_reports_media_that_do_not_decode(root):
    (root / "images").mkdir()
    (root / "images" / "a.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    (root / "videos_frames" / "v1" / "001.jpg").write_bytes(b"\xff\xd8 not really")
    video = root / "videos" / "v2.mp4"
    video.write_bytes(b"\0" * 4000)
    queries = [*TEXT_QUERIES[:2], {"id": "q2", "image": "a.jpg"}]
    write(root, queries=queries, corpus=[*VIDEOS, {"id": "v3", "video": "v1"}])
    assert load(root).skipped == []
    image, frame, file = error_lines(root, workers=2)
    assert image.startswith(f"SET: query id 'q2': image '{root}/images/a.jpg': truncated: ")
    assert frame.startswith(f"SET: corpus id 'v1' and 1 more: video '{root}/videos_frames/v1': corrupt: ")
    assert "001.jpg" in frame
    assert file.startswith(f"SET: corpus id 'v2': video '{video}': not_a_video: ")


def test_check_with_a_frame_count_decodes_the_frames_of_a_run(root):
    (root / "videos_frames" / "v1" / "001.jpg").write_bytes(b"")
    assert len(error_lines(root)) == 1
    assert error_lines(root, frames=2) == []  # only the first and the last frame
    (root / "videos_frames" / "v1" / "002.jpg").write_bytes(b"")
    assert len(error_lines(root, frames=2)) == 1


def test_broken_links_are_errors(root):
    (root / "videos_frames" / "v0" / "001.jpg").unlink()
    (root / "videos_frames" / "v0" / "001.jpg").symlink_to(root / "gone")
    (root / "videos_frames" / "v1" / "000.jpg").unlink()
    (root / "videos_frames" / "v1" / "000.jpg").mkdir()
    first, second = error_lines(root)
    assert first.startswith("SET: corpus id 'v0': video ")
    assert second.startswith("SET: corpus id 'v1': video ")


def test_a_folder_that_is_not_a_data_set_is_reported_and_loads_empty(tmp_path):
    (tmp_path / "X").mkdir()
    data = load(tmp_path / "X")
    assert [error.where for error in data.skipped] == [QUERIES, CORPUS, INSTANCES]
    assert (data.query_ids, data.corpus_ids, data.positives) == ([], [], {})
    assert len(error_lines(tmp_path / "nowhere")) == 3


def test_an_empty_file_is_reported(root):
    write(root, instances=[])
    assert error_lines(root)[0] == f"SET: {INSTANCES}: empty: it has no lines"
    assert load(root).query_ids == []


def test_byte_order_mark_and_windows_line_ends(root):
    rows = "\ufeff" + "\r\n".join(json.dumps(entry) for entry in TEXT_QUERIES) + "\r\n\r\n"
    (root / QUERIES).write_bytes(rows.encode())
    assert error_lines(root) == []
    assert load(root).query_ids == ["q0", "q1", "q2"]


@pytest.fixture
def mteb(tmp_path):
    folder = tmp_path / "BEIR"
    frames(folder, "v1")
    lines(folder / "corpus.jsonl", [
        {"_id": "d0", "title": "Ships", "text": "They float."}, {"_id": "d1", "text": "", "video": "v1.mp4"},
        {"_id": "d2", "title": "", "text": ""}, {"_id": "d3", "text": "Sand."}])  # fmt: skip
    lines(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(5)])
    (folder / "qrels").mkdir()
    return folder


def test_mteb_folder(mteb):
    qrels = ["query-id\tcorpus-id\tscore", "q0\td0\t2", "q0\td3\t0", "q1\td3\t1", "q1\td0\t1"]
    lines(mteb / "qrels" / "test.tsv", qrels)
    lines(mteb / "corpus.jsonl", [{"_id": "d0", "title": "Ships", "text": "They float."},
                                  {"_id": "d1", "video": "v1.mp4"}, {"_id": "d3", "text": "Sand."}])  # fmt: skip
    data = load_mteb(mteb)
    assert (data.name, data.skipped, data.candidates) == ("BEIR", [], None)
    assert [item.text for item in data.corpus] == ["Ships They float.", None, "Sand."]
    assert data.corpus[1].video == str(mteb / "videos_frames" / "v1")
    # q2, q3 and q4 belong to another split
    assert data.positives == {"q0": frozenset(["d0"]), "q1": frozenset(["d0", "d3"])}
    assert check_media(data, frames=3) == []


def test_mteb_errors(mteb):
    qrels = ["q0\td0\t1", "q1\td2\t1", "q2\td0\t0", "q3\td9\t1", "q8\td0\t1", "q4 d0 1", "q4\td0\tyes"]
    lines(mteb / "qrels" / "dev.tsv", qrels)
    data = load_mteb(mteb, split="dev")
    assert [str(error) for error in data.skipped] == [
        "BEIR: corpus.jsonl line 2: id 'd1': empty text",
        "BEIR: corpus.jsonl line 3: id 'd2': empty text; so query 'q1' is left out",
        "BEIR: qrels/dev.tsv line 4: unknown corpus id 'd9' for query 'q3': corpus.jsonl does not have it; "
        "so query 'q3' is left out",
        "BEIR: qrels/dev.tsv line 5: unknown query id 'q8': queries.jsonl does not have it",
        "BEIR: qrels/dev.tsv line 6: 1 cell for 3 columns in the first row; write a text that holds tabs or line "
        "breaks without them, or the file as CSV",
        "BEIR: qrels/dev.tsv line 7: ['q4', 'd0', 'yes']: give query id, corpus id and score between tabs",
        "BEIR: queries.jsonl line 3: query 'q2': it has no valid positive",
    ]
    assert data.query_ids == ["q0"]
    assert [error.where for error in load_mteb(mteb).skipped] == ["qrels/test.tsv"]
