# ruff: noqa: B905, PTH123, SIM115 (runs in other environments, read by few)
"""Ask gbstats and spotify-confidence for their numbers, each in an environment of its own:

    python3 -m venv A && A/bin/pip install gbstats==0.8.0             && A/bin/python make.py gbstats > gbstats.json
    python3 -m venv B && B/bin/pip install spotify-confidence==4.1.0  && B/bin/python make.py spotify > spotify.json
    python3 make.py join gbstats.json spotify.json > cases.json

Cases are drawn from Python's own generator, whose sequence does not change between versions, so every environment sees the
same ones. What a library cannot answer is null; gbstats answers such questions with effect 0 and p = 1, which is null here too.
"""

from __future__ import annotations

import json
import math
import random
import sys
import warnings


def draw(rng, n, shape):
    """One arm of n users: rows [value, denominator, value before]."""
    rows = []
    for _ in range(n):
        taste = rng.gammavariate(2, 1)
        seen = rng.randrange(1, 12)
        if shape == "clicks":
            rows.append([sum(rng.random() < 0.08 * taste for _ in range(seen)), seen, rng.randrange(0, 1 + int(3 * taste))])
        elif shape == "binary":
            rows.append([int(rng.random() < 0.15 * taste), 1, int(rng.random() < 0.3 * taste)])
        elif shape == "revenue":
            rows.append([round(max(rng.lognormvariate(taste, 1) - 2, 0), 2), seen, round(rng.lognormvariate(taste, 0.5), 2)])
        elif shape == "negative":  # refunds
            rows.append([round(rng.gauss(taste, 3), 2), seen, round(rng.gauss(taste, 1), 2)])
    return rows


def cases():
    """(name, kind, treated, control)"""
    rng = random.Random(20261127)
    for number in range(50):
        for shape in ("clicks", "binary", "revenue", "negative"):
            sizes = rng.randrange(8, 45), rng.randrange(8, 45)
            yield (
                f"{shape}-{number}",
                "binary" if shape == "binary" else "value",
                draw(rng, sizes[0], shape),
                draw(rng, sizes[1], shape),
            )
    some = draw(rng, 20, "clicks")
    yield "zero-variance", "value", [[2, 3, 1]] * 9, [[2, 3, 1]] * 7
    yield "zero-variance-treated", "value", [[2, 3, 1]] * 9, some
    yield "one-unit-each", "value", [[3, 4, 1]], [[2, 5, 1]]
    yield "one-unit-treated", "value", [[3, 4, 1]], some
    yield "no-conversions", "binary", [[0, 1, 0]] * 12, [[0, 1, 1]] * 10
    yield "no-conversions-control", "binary", [[int(i < 3), 1, 0] for i in range(12)], [[0, 1, 0]] * 10
    yield "no-conversions-treated", "binary", [[0, 1, 0]] * 10, [[int(i < 3), 1, 0] for i in range(12)]
    yield "all-convert", "binary", [[1, 1, 0]] * 10, [[1, 1, 1]] * 12
    yield "no-denominator", "value", [[0, 0, 1]] * 10, [[0, 0, 2]] * 12
    yield "past-constant", "value", [[row[0], row[1], 4] for row in some], [[row[0] + 1, row[1], 4] for row in some[:15]]
    yield (
        "negative-control",
        "value",
        [[row[0], 1, row[2]] for row in draw(rng, 20, "negative")],
        [[-abs(r[0]) - 1, 1, r[2]] for r in draw(rng, 20, "negative")],
    )
    yield (
        "large-values",
        "value",
        [[r[0] * 1e5, r[1], r[2] * 1e5] for r in draw(rng, 30, "revenue")],
        [[r[0] * 1e5, r[1], r[2] * 1e5] for r in draw(rng, 30, "revenue")],
    )


SPLITS = [
    ((4850, 5150), (1, 1)),
    ((44700, 45489), (1, 1)),
    ((900, 110), (0.9, 0.1)),
    ((330, 320, 355), (1, 1, 1)),
    ((5, 9), (0.5, 0.5)),
    ((612, 388), (0.6, 0.4)),
]
FAMILIES = [[0.01, 0.04, 0.03, 0.005], [0.2, 0.9, 0.9], [0.0001], [0.04] * 8, [0.001, 0.013, 0.012, 0.5, 0.6, 0.011]]
SIZES = [
    (0.1, 0.02, 0.05, 0.8),
    (10.0, 25.0, 0.05, 0.8),
    (2.5, 9.0, 0.02, 0.9),
    (100.0, 400.0, 0.01, 0.7),
]  # mean, variance, lift, power


def plain(value):
    """JSON has no infinity and no NaN; ten digits are enough for an agreement of six."""
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return float(f"{value:.10g}") if value is not None and math.isfinite(value) else None


def ask_gbstats():
    from gbstats.frequentist.tests import FrequentistConfig, SequentialConfig, SequentialTwoSidedTTest, TwoSidedTTest
    from gbstats.models.statistics import ProportionStatistic, RatioStatistic, RegressionAdjustedStatistic, SampleMeanStatistic
    from gbstats.utils import check_srm

    def mean(rows, column):
        return SampleMeanStatistic(n=len(rows), sum=sum(r[column] for r in rows), sum_squares=sum(r[column] ** 2 for r in rows))

    def ratio(rows):
        return RatioStatistic(
            n=len(rows), m_statistic=mean(rows, 0), d_statistic=mean(rows, 1), m_d_sum_of_products=sum(r[0] * r[1] for r in rows)
        )

    def share(rows):
        return ProportionStatistic(n=len(rows), sum=sum(r[0] for r in rows))

    def past(rows):
        return RegressionAdjustedStatistic(
            n=len(rows),
            post_statistic=mean(rows, 0),
            pre_statistic=mean(rows, 2),
            post_pre_sum_of_products=sum(r[0] * r[2] for r in rows),
            theta=0,
        )

    def ask(make, treated, control, difference, sequential):
        settings = {"difference_type": difference}
        try:
            if sequential:
                test = SequentialTwoSidedTTest(
                    make(control), make(treated), SequentialConfig(sequential_tuning_parameter=60, **settings)
                )
            else:
                test = TwoSidedTTest(make(control), make(treated), FrequentistConfig(**settings))
            found = test.compute_result()
        except (ZeroDivisionError, ValueError):
            return None
        if found.error_message:
            return None
        return plain([found.expected, *found.ci, found.p_value])

    answers = {}
    for name, kind, treated, control in cases():
        makes = {"mean": mean_of(mean), "ratio": ratio, "cuped": past}
        if kind == "binary":
            makes["share"] = share
        answers[name] = {
            f"{statistic} {difference}{' sequential' if sequential else ''}": ask(make, treated, control, difference, sequential)
            for statistic, make in makes.items()
            for difference in ("absolute", "relative")
            for sequential in (False, True)
        }
    return {"cases": answers, "srm": [check_srm(list(users), list(weights)) for users, weights in SPLITS]}


def mean_of(mean):
    return lambda rows: mean(rows, 0)


def ask_spotify():
    import pandas as pd
    from spotify_confidence import SampleSizeCalculator, StudentsTTest, ZTest
    from spotify_confidence.analysis.frequentist.sample_ratio_test import sample_ratio_test
    from statsmodels.stats.multitest import multipletests

    def frame(rows):
        return {"sum": sum(r[0] for r in rows), "squares": sum(r[0] ** 2 for r in rows), "n": len(rows)}

    def ask(kind, treated, control, absolute, margin=None):
        data = pd.DataFrame([{"arm": "treated", **frame(treated)}, {"arm": "control", **frame(control)}])
        test = (ZTest if kind == "z" else StudentsTTest)(data, "sum", "squares", "n", categorical_group_columns="arm")
        try:
            extra = {} if margin is None else {"non_inferiority_margins": (margin, "increase")}
            row = test.difference(level_1="control", level_2="treated", absolute=absolute, **extra).iloc[0]
        except (ValueError, ZeroDivisionError):
            return None
        if margin is not None:
            return plain([row["p-value"]])[0]
        found = plain([row["difference"], row["ci_lower"], row["ci_upper"], row["p-value"]])
        return None if None in found else found

    answers = {}
    for name, kind, treated, control in cases():
        answers[name] = {"welch absolute": ask("t", treated, control, True)}
        if kind == "binary":
            answers[name]["wald absolute"] = ask("z", treated, control, True)
        else:
            answers[name]["welch non-inferior"] = ask("t", treated, control, True, 0.1)
    splits = []
    for users, weights in SPLITS:
        data = pd.DataFrame({"arm": list("abcdef")[: len(users)], "n": users})
        splits.append(
            float(sample_ratio_test(data, ["arm"], "n", {arm: w / sum(weights) for arm, w in zip("abcdef", weights)})[0])
        )
    sizes = []
    for mean, variance, lift, power in SIZES:
        data = pd.DataFrame(
            {
                "metric": ["m"],
                "avg": [mean],
                "var": [variance],
                "binary": [False],
                "mde": [lift],
                "nim": [None],
                "preference": [None],
            }
        )
        calculator = SampleSizeCalculator(data, "avg", "var", "binary", interval_size=0.95, power=power, metric_column="metric")
        found = calculator.sample_size([0.5, 0.5], mde_column="mde", nim_column="nim", preferred_direction_column="preference")
        sizes.append(float(found["required_sample_size_for_metric"].iloc[0]))
    families = [[float(one) for one in multipletests(family, method="holm")[1]] for family in FAMILIES]
    return {"cases": answers, "srm": splits, "sizes": sizes, "holm": families}


def join(gbstats, spotify):
    return {
        "made_by": ["gbstats 0.8.0", "spotify-confidence 4.1.0"],
        "cases": [
            {
                "name": name,
                "kind": kind,
                "treated": treated,
                "control": control,
                "gbstats": gbstats["cases"][name],
                "spotify": spotify["cases"][name],
            }
            for name, kind, treated, control in cases()
        ],
        "srm": [
            {"units": units, "weights": weights, "gbstats": gbstats["srm"][at], "spotify": spotify["srm"][at]}
            for at, (units, weights) in enumerate(SPLITS)
        ],
        "holm": [{"p_values": family, "adjusted": spotify["holm"][at]} for at, family in enumerate(FAMILIES)],
        "sizes": [
            {"mean": m, "variance": v, "lift": lift, "power": power, "units": spotify["sizes"][at]}
            for at, (m, v, lift, power) in enumerate(SIZES)
        ],
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1] == "join":
        found = join(*(json.load(open(path)) for path in sys.argv[2:4]))
    else:
        found = {"gbstats": ask_gbstats, "spotify": ask_spotify}[sys.argv[1]]()
    json.dump(found, sys.stdout, separators=(",", ":"))
