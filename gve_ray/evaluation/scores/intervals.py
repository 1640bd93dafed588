"""Intervals of all scores of a run, and paired comparisons of its models, from one bootstrap.

    statistics = RunIntervals(scored, clusters, config)
    statistics.summary("trained")                  # data sets, abilities and averages with intervals
    statistics.comparisons("trained", ["base"])    # differences of "trained" from other models

Every data set, ability, average and difference is computed in the same resamples of the clusters of
queries (`scores.bootstrap`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gve_ray.evaluation.config import EvaluationConfig
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.scores.abilities import ABILITIES, summarise, weights
from gve_ray.evaluation.scores.bootstrap import ClusterBootstrap
from gve_ray.evaluation.scores.scoring import Scored
from gve_ray.evaluation.scores.statistics import Floats, Interval, permutation_p

AVERAGES = ("average_datasets", "average_abilities")
_RANK = "median_rank"  # the only metric that is not a mean over queries, so it has no interval


class RunIntervals:
    """The resampled scores of all models.

    scored: by model, then data set. clusters: by data set, the cluster of each query, int64
    [queries] (`clusters.join_queries`).
    """

    def __init__(
        self,
        scored: Mapping[str, Mapping[str, Scored]],
        clusters: Mapping[str, NDArray[np.int64]],
        config: EvaluationConfig,
    ) -> None:
        self._scored, self._config = scored, config
        some = next(iter(scored.values()))
        self._names = [name for name, result in some.items() if _is_mean(result)]
        self._bootstrap = ClusterBootstrap(
            {name: clusters[name] for name in some if len(clusters[name])},
            resamples=config.resamples,
            seed=config.seed,
        )
        # A column of the resampled means for each model, by data set; then those of the accuracies.
        self._column = {model: number for number, model in enumerate(scored)}
        rows = {name: np.stack([results[name].values for results in scored.values()]) for name in self._names}
        self._means = self._bootstrap.means(rows)
        self._accuracies = self._bootstrap.means(
            {
                name: np.stack(
                    [row for results in scored.values() for row in results[name].accuracies.values()]
                )
                for name, result in some.items()
                if result.accuracies
            }
        )

    @property
    def quantities(self) -> dict[str, dict[str, float]]:
        """Abilities and averages whose data sets were all scored, with the weights of the data sets."""
        shares = {name: weights(name) for name in ABILITIES}
        shares |= {
            "average_datasets": dict.fromkeys(UVRB, 1 / len(UVRB)),
            "average_abilities": weights("average"),
        }
        return {name: parts for name, parts in shares.items() if set(parts) <= set(self._names)}

    def clusters(self) -> dict[str, dict[str, int]]:
        """The number of clusters of queries in each data set, and in each ability and average."""
        datasets = {name: self._interval(0.0, np.zeros(0), {name: 1.0}).clusters for name in self._names}
        abilities = {
            name: self._interval(0.0, np.zeros(0), parts).clusters for name, parts in self.quantities.items()
        }
        return {"datasets": datasets, "abilities": abilities}

    def summary(self, model: str) -> dict[str, Any]:
        """One model's part of results.json: data sets, abilities and averages, with intervals.

        Abilities and averages cover UVRB's data sets only; they are left out or None if one of their
        data sets is missing.
        """
        results = self._scored[model]
        scores = summarise({name: results[name].facts["score"] for name in self._names if name in UVRB})
        intervals = {name: self.score(model, parts).bounds for name, parts in self.quantities.items()}
        return {
            "datasets": {name: self._dataset(model, name) for name in results},
            "abilities": dict(scores.abilities),
            "ability_intervals": {name: intervals[name] for name in scores.abilities},
            "average_datasets": scores.average_datasets,
            "average_datasets_interval": intervals.get("average_datasets"),
            "average_abilities": scores.average_abilities,
            "average_abilities_interval": intervals.get("average_abilities"),
        }

    def score(self, model: str, shares: Mapping[str, float]) -> Interval:
        """A weighted sum of data sets. shares: the weight of each data set."""
        estimate = sum(share * float(self._values(model, name).mean()) for name, share in shares.items())
        return self._interval(estimate, self._drawn(model, shares), shares)

    def difference(self, first: str, second: str, shares: Mapping[str, float]) -> Interval:
        """The difference of two models in a weighted sum of data sets, in the same resamples."""
        estimate = sum(share * float(self._gap(first, second, name).mean()) for name, share in shares.items())
        draws = self._drawn(first, shares) - self._drawn(second, shares)
        return self._interval(estimate, draws, shares)

    def comparisons(self, subject: str, others: Iterable[str]) -> list[dict[str, Any]]:
        """Compare a model with others: differences, intervals and p in data sets, abilities, averages.

        p is from a permutation test of the signs of the clusters' contributions.
        """
        rows = []
        for against in others:
            kinds = [("dataset", name, {name: 1.0}) for name in self._names]
            kinds += [
                ("average" if name in AVERAGES else "ability", name, parts)
                for name, parts in self.quantities.items()
            ]
            for kind, name, shares in kinds:
                difference = self.difference(subject, against, shares)
                gaps = {part: self._gap(subject, against, part) for part in shares}
                rows.append(
                    {
                        "kind": kind,
                        "name": name,
                        "model": subject,
                        "against": against,
                        "difference": difference.estimate,
                        "interval": difference.bounds,
                        "p_value": permutation_p(
                            self._bootstrap.contributions(gaps, shares),
                            resamples=self._config.resamples,
                            seed=self._config.seed,
                        ),
                        "n_queries": sum(map(len, gaps.values())),
                        "n_clusters": difference.clusters,
                    }
                )
        return rows

    def _dataset(self, model: str, name: str) -> dict[str, Any]:
        """The facts of a data set, with intervals."""
        result = self._scored[model][name]
        facts = result.facts | {
            "interval": self.score(model, {name: 1.0}).bounds if name in self._names else None
        }
        if result.accuracies:
            facts["classification"] = dict(facts["classification"])
            for number, accuracy in enumerate(result.accuracies):
                column = self._column[model] * len(result.accuracies) + number
                score = facts["classification"][accuracy]["score"]
                interval = self._interval(score, self._accuracies[name][:, column], {name: 1.0})
                facts["classification"][accuracy] = {"score": score, "interval": interval.bounds}
        return facts

    def _values(self, model: str, name: str) -> Floats:
        return self._scored[model][name].values

    def _gap(self, first: str, second: str, name: str) -> Floats:
        return self._values(first, name) - self._values(second, name)

    def _drawn(self, model: str, shares: Mapping[str, float]) -> Floats:
        """Resampled values of a weighted sum of data sets, float64 [resamples]."""
        draws = np.zeros(self._config.resamples)
        for name, share in shares.items():
            draws += share * self._means[name][:, self._column[model]]
        return draws

    def _interval(self, estimate: float, draws: Floats, shares: Mapping[str, float]) -> Interval:
        return self._bootstrap.interval(estimate, draws, shares)


def _is_mean(result: Scored) -> bool:
    return result.facts["metric"] != _RANK and bool(len(result.values))
