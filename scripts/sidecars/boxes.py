"""Boxes: IoU, non-maximum suppression, and the choice of what is stored.

NumPy only. A box is `(x1, y1, x2, y2)` in fractions of width and height, with the
origin at the top left.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# GLIP's pre-NMS threshold (ATSS.INFERENCE_TH). Embedding applies a higher one
# (data.score_threshold), which can so be changed without grounding again.
MIN_SCORE = 0.05
NMS_IOU = 0.6  # GLIP's, per phrase; Grounding DINO has no NMS and leaves duplicates
MAX_CANDIDATES = 32  # stored per image, the best by score
DECIMALS = 5  # 0.00001 of the width: half a pixel of the largest image


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns intersection over union of one box [4] with boxes [N, 4]: [N].

    A box without area has an IoU of 0 with every box.
    """
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    area = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    own = np.prod(np.clip(box[2:] - box[:2], 0, None))
    union = area + own - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Returns the indices of the boxes to keep, best first (non-maximum suppression).

    Args:
      boxes: [N, 4].
      scores: [N].
      threshold: the largest IoU that two kept boxes may have.
    """
    order = list(np.argsort(-scores, kind="stable"))
    keep: list[int] = []
    while order:
        best = order.pop(0)
        keep.append(int(best))
        if order:
            overlap = iou(boxes[best], boxes[order])
            order = [i for i, o in zip(order, overlap) if o <= threshold]
    return keep


def candidates(
    boxes: np.ndarray,
    scores: np.ndarray,
    phrases: list[dict[str, Any]],
    size: tuple[int, int],
    *,
    min_score: float = MIN_SCORE,
    nms_iou: float = NMS_IOU,
    max_candidates: int = MAX_CANDIDATES,
) -> list[dict[str, Any]]:
    """Chooses what is stored of a grounder's output; the same for every grounder.

    Args:
      boxes: float [Q, 4], not yet clipped; a box with NaN is dropped.
      scores: float [Q, P], one per phrase; a NaN score counts as none.
      phrases: the P phrases, `{"phrase", "span"}`.
      size: width and height of the image in pixels; a box narrower or lower than one
        pixel is dropped.
      min_score: the lowest score that is stored. Low, because embedding applies a
        threshold of its own (`data.score_threshold`).
      nms_iou: the largest IoU of two stored boxes of one phrase.
      max_candidates: the most objects stored for an image.

    Returns:
      `{"phrase", "span", "box", "score"}` each, best first.
    """
    boxes = np.clip(np.asarray(boxes, np.float64), 0, 1)
    scores = np.asarray(scores, np.float64)
    found = np.isfinite(boxes).all(1)
    found &= ((boxes[:, 2:] - boxes[:, :2]) * size >= 1).all(1)
    objects = []
    for place, phrase in enumerate(phrases):
        # A NaN is not >= anything.
        chosen = np.flatnonzero(found & (scores[:, place] >= min_score))
        for i in suppress(boxes[chosen], scores[chosen, place], nms_iou):
            q = chosen[i]
            box = [round(float(v), DECIMALS) for v in boxes[q]]
            if box[0] < box[2] and box[1] < box[3]:
                score = round(min(float(scores[q, place]), 1.0), DECIMALS)
                objects.append({**phrase, "box": box, "score": score})
    objects.sort(key=lambda o: -o["score"])
    return objects[:max_candidates]
