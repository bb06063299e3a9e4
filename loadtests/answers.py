"""What is wrong with an answer, in one line, or None. A fast wrong answer is a failure, not a good latency."""

from __future__ import annotations

from typing import Any


def recommend_problem(status: int, answer: Any, k: int) -> str | None:
    """200, a bundle named, 1..k distinct ads in their positions, each p_click a probability or null."""
    if status != 200:
        return f"status {status}"
    if not answer.get("bundle_id"):
        return "no bundle_id"
    ads = answer.get("ads")
    if not ads:
        return "no ads"
    if len(ads) > k or len({one["ad_id"] for one in ads}) < len(ads):
        return f"{len(ads)} ads for k = {k}, or one ad twice"
    if [one["position"] for one in ads] != list(range(len(ads))):
        return "positions are not 0, 1, 2, ..."
    if not all(one["p_click"] is None or 0 <= one["p_click"] <= 1 for one in ads):
        return "p_click is not a probability"
    return None


def score_problem(status: int, answer: Any, ad_ids: list[str]) -> str | None:
    """200, a bundle named, every ad either scored, in the order asked, or called unknown."""
    if status != 200:
        return f"status {status}"
    if not answer.get("bundle_id"):
        return "no bundle_id"
    unknown = set(answer["unknown_ad_ids"])
    if [one["ad_id"] for one in answer["scores"]] != [one for one in ad_ids if one not in unknown]:
        return "scores are not in the order asked"
    return None if len(unknown) < len(ad_ids) else "every ad is unknown"


def feedback_problem(status: int, answer: Any, events: int) -> str | None:
    """202, and every event accepted."""
    if status != 202:
        return f"status {status}"
    if answer["rejected"]:
        return f"rejected: {answer['rejected'][0]['reason']}"
    return None if answer["accepted"] == events else f"{answer['accepted']} of {events} events accepted"
