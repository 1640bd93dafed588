"""Damaged files are read or refused, with no other exception. The full version is `tests/media/fuzz.py`."""

from collections import Counter

from tests.media.fuzz import mutant, run, seeds, summary, table

N = 150


def test_every_mutant_is_accounted_for():
    outcomes = list(run(range(N), seed=1))
    pictures = {n for n in range(N) if mutant(1, n)[0].startswith("picture/")}
    expected = Counter({"strict": N - len(pictures), "sparse": N - len(pictures), "picture": len(pictures)})
    assert Counter(outcome.path for outcome in outcomes) == expected
    assert [outcome for outcome in outcomes if outcome.outcome == "unexpected"] == []
    # Shows that the mutants differ and that they reach the decoder.
    reasons = {outcome.outcome for outcome in outcomes}
    assert reasons >= {"ok", "corrupt", "truncated", "not_a_video"}
    assert summary(outcomes, 1.0)["mutants"] == N
    assert f"{'all':20}" in table(outcomes)


def test_mutants_can_be_made_again():
    assert mutant(1, 17) == mutant(1, 17)
    assert len({mutant(1, n)[1] for n in range(50)}) == 50
    assert all(mutant(1, n)[0] in seeds() for n in range(50))
