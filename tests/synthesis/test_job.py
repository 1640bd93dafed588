"""What says whether a run was finished before."""

import hashlib

import pyarrow as pa

from gve_ray.inputs.manifest import MANIFEST_SCHEMA
from gve_ray.synthesis.job import manifest_fingerprint


def manifest(*rows: tuple[str, str, str | None]) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(zip(MANIFEST_SCHEMA.names, row, strict=True)) for row in rows], schema=MANIFEST_SCHEMA
    )


def test_a_manifest_s_fingerprint_is_that_of_its_rows_as_json() -> None:
    text = (
        '[{"caption":"für \\"A\\"","uri":"/a.mp4","video_id":"a"},'
        '{"caption":null,"uri":"/b.mp4","video_id":"b"}]'
    )
    rows = [("a", "/a.mp4", 'für "A"'), ("b", "/b.mp4", None)]
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert manifest_fingerprint(manifest(*rows)) == expected
    parts = pa.concat_tables([manifest(rows[0]), manifest(rows[1])])
    assert manifest_fingerprint(parts) == expected
    assert manifest_fingerprint(manifest(*rows[:1])) != expected
