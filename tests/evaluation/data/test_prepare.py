import io
import json
import os
import tarfile
import zipfile

import pytest

from gve_ray import cli
from gve_ray.evaluation.data.archives import unpack_archives
from gve_ray.evaluation.data.prepare import prepare_uvrb
from gve_ray.evaluation.data.uvrb import UVRB, find_data_sets


def tree(n_queries, *, videos=True):
    """The files of a data set by name: `n_queries` queries of one video each."""
    files = {
        "jsonl/queries.jsonl": [{"id": f"q{i}", "text": "a"} for i in range(n_queries)],
        "jsonl/corpus.jsonl": [{"id": f"v{i}", "video": f"v{i}.mp4"} for i in range(n_queries)],
        "jsonl/instances.jsonl": [{"qid": f"q{i}", "pos": [f"v{i}"]} for i in range(n_queries)],
    }
    content = {name: "\n".join(map(json.dumps, rows)).encode() for name, rows in files.items()}
    return content | ({f"videos_frames/v{i}/0.jpg": b"0" for i in range(n_queries)} if videos else {})


def tar(files, mode="w:gz"):
    """The bytes of a tar file with these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def below(folder, files):
    return {f"{folder}/{name}": content for name, content in files.items()}


def write(root, name, content):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def states(preparation):
    return {
        each.name: (each.state, each.n_queries) for each in preparation.data_sets if each.state != "missing"
    }


@pytest.fixture
def root(tmp_path):
    """A downloaded benchmark of nested and split archives, with a fault of each kind."""
    root = tmp_path / "uvrb"
    n = UVRB["MSRVTT"].n_queries
    write(root, "MSRVTT/MSRVTT.tar.gz", tar(below("UVRB/MSRVTT", tree(n))))
    # split with `split -b`, and the frames are in an archive of their own inside it
    inner = {
        **tree(2, videos=False),
        "videos_frames.tar": tar({f"v{i}/0.jpg": b"0" for i in range(2)}, "w:"),
    }
    data = tar(below("DiDeMo", inner))
    for i, part in enumerate(("aa", "ab", "ac")):
        third = len(data) // 3 + 1
        write(root, f"DiDeMo.tar.gz.part-{part}", data[i * third : (i + 1) * third])
    # a zip file split by number whose second part was not downloaded
    data = zipped(below("UVRB/VDC-D", tree(3)))
    for part in (0, 2):
        write(root, f"VDC-D.zip.{part:03d}", data[part * 100 : part * 100 + 100])
    write(root, "CRB-G.zip", zipped(below("CRB-G", tree(2, videos=False))))  # no frames
    write(root, "evil.tar", tar({"../../outside.txt": b"x"}, "w:"))
    write(root, "evil.zip", zipped({"../outside.txt": b"x"}))
    write(root, "cut.tar.gz", tar(below("PEV-K", tree(400)))[:3000])
    write(root, "MSRVTT/MSRVTT.tar.gz.md5", b"checksum")
    return root


def test_archives_of_every_kind_are_unpacked_and_each_fault_is_named(root):
    preparation = prepare_uvrb(str(root))
    assert states(preparation) == {
        "MSRVTT": ("complete", 1000),
        "DiDeMo": ("other sizes", 2),
        "CRB-G": ("incomplete", 2),
    }
    errors = {archive.parts[0]: archive.error for archive in preparation.archives if archive.error}
    assert set(errors) == {"VDC-D.zip.000", "evil.tar", "evil.zip", "cut.tar.gz"}
    assert "part 001 is missing beside VDC-D.zip.000" in errors["VDC-D.zip.000"]
    assert "outside" in errors["evil.tar"]
    assert "outside" in errors["evil.zip"]
    assert not (root.parent / "outside.txt").exists()
    assert not (root.parent.parent / "outside.txt").exists()
    assert not list(root.rglob(".unpacking"))
    assert not (root / "PEV-K").exists()  # nothing of an archive that is cut
    crb = next(each for each in preparation.data_sets if each.name == "CRB-G")
    assert len(crb.errors) == 2
    assert "v0.mp4: missing: no such file" in crb.errors[0]
    assert not preparation.is_complete
    assert "1 of 16 data sets are complete" in str(preparation)


def test_a_second_run_unpacks_nothing_and_a_mended_download_is_taken_up(root):
    before = prepare_uvrb(str(root))
    assert sum(archive.is_new for archive in before.archives) == 4
    again = prepare_uvrb(str(root))
    assert not any(archive.is_new for archive in again.archives)
    assert states(again) == states(before)

    data = zipped(below("UVRB/VDC-D", tree(3)))
    for part in range(len(data) // 100 + 1):
        write(root, f"VDC-D.zip.{part:03d}", data[part * 100 : (part + 1) * 100])
    assert states(prepare_uvrb(str(root)))["VDC-D"] == ("other sizes", 3)


def test_an_interrupted_run_is_repeated(root, monkeypatch):
    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("gve_ray.evaluation.data.archives._move", killed)
    with pytest.raises(KeyboardInterrupt):
        list(unpack_archives(root))
    assert find_data_sets(str(root))["MSRVTT"] == str(root / "MSRVTT")  # the folder of the archive, as yet
    monkeypatch.undo()
    assert states(prepare_uvrb(str(root)))["MSRVTT"] == ("complete", 1000)


def test_a_data_set_is_found_wherever_archives_put_it(tmp_path):
    names = list(UVRB)[:4]
    places = [names[0], f"{names[1]}/UVRB/{names[1]}", f"UVRB/{names[2]}", f"{names[3]}/{names[3]}"]
    for place in places:
        os.makedirs(tmp_path / place / "jsonl")
    assert find_data_sets(f"{tmp_path}/") == {
        name: f"{tmp_path}/{place}" for name, place in zip(names, places, strict=True)
    }


def test_the_command_prints_a_table_or_json_and_fails_while_something_is_missing(root, capsys):
    assert cli.main(["uvrb", "prepare", str(root), "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in facts["data_sets"]] == list(UVRB)
    assert cli.main(["uvrb", "prepare", str(root)]) == 1
    printed = capsys.readouterr().out
    assert "archive evil.zip: " in printed
    assert cli.main(["uvrb", "prepare", str(root / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
