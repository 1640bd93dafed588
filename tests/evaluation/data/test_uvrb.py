from dataclasses import replace

import pytest

from gve_ray.evaluation.data.uvrb import UVRB


def test_data_sets_are_in_the_papers_order() -> None:
    assert (
        list(UVRB)
        == (
            "MSRVTT DiDeMo CRB-G CRB-S VDC-O CRB-T CMRB DREAM-E LoVR-TH PEV-K LoVR-V VDC-D "
            "MS-TI MS-TV MSRVTT-I2V LoVR-C2V"
        ).split()
    )


def test_specs_of_each_kind() -> None:
    camera = UVRB["CMRB"]
    assert (camera.task, camera.domain, camera.subdomain, camera.ability) == ("TXT", "FG", "T", "T")
    assert (camera.metric, camera.n_queries, camera.n_corpus, camera.candidates) == (
        "hit@10",
        728,
        1071,
        False,
    )
    composed = UVRB["MS-TV"]
    assert (composed.ability, composed.modality, composed.metric) == ("CMP", "text+video", "precision@1")
    assert (composed.candidates, composed.n_corpus) == (True, 10)
    assert UVRB["LoVR-C2V"].ability == "VIS"
    assert UVRB["LoVR-V"].ability == "LC"
    assert UVRB["DiDeMo"].prompt == "Find a video that includes the following described scenes."


def test_only_cmp_ranks_listed_candidates() -> None:
    assert [name for name, spec in UVRB.items() if spec.candidates] == ["MS-TI", "MS-TV"]


def test_an_entry_outside_the_taxonomy_is_refused() -> None:
    with pytest.raises(ValueError, match="MSRVTT: task='AUD'; use one of TXT, CMP, VIS"):
        replace(UVRB["MSRVTT"], task="AUD")
    with pytest.raises(ValueError, match="FG needs a subdomain"):
        replace(UVRB["CMRB"], subdomain=None)
    with pytest.raises(ValueError, match="only TXT has a domain"):
        replace(UVRB["MSRVTT"], task="VIS")
