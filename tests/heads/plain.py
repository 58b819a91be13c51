"""The papers' formulas, one image at a time: slow, but easy to compare with the papers."""

import math


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def normalized(vector):
    length = max(math.sqrt(dot(vector, vector)), 1e-12)
    return [x / length for x in vector]


def softmax(values):
    largest = max(values)
    exponentials = [math.exp(value - largest) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def zero_shot(global_feature, text, logit_scale):
    f = normalized(global_feature)
    return [logit_scale * dot(f, normalized(t)) for t in text]


def calip(global_feature, spatial, text, logit_scale, factor, beta2, beta3):
    """Logits of one image; arguments are lists of floats, and so is the result."""
    f = normalized(global_feature)
    positions = [normalized(row) for row in spatial]
    classes = [normalized(row) for row in text]
    affinity = [[factor * dot(s, t) for t in classes] for s in positions]
    width = len(f)

    attended_text = []
    for c in range(len(classes)):
        weights = softmax([affinity[s][c] for s in range(len(positions))])
        attended_text.append(
            [sum(w * s[d] for w, s in zip(weights, positions, strict=True)) for d in range(width)]
        )
    attended_positions = []
    for row in affinity:
        weights = softmax(row)
        attended_positions.append(
            [sum(w * t[d] for w, t in zip(weights, classes, strict=True)) for d in range(width)]
        )
    columns = list(zip(*attended_positions, strict=True))
    visual = [sum(column) / len(column) + max(column) for column in columns]
    return [
        logit_scale
        * (dot(f, classes[c]) + beta2 * dot(f, attended_text[c]) + beta3 * dot(visual, classes[c]))
        for c in range(len(classes))
    ]


def tip_adapter(global_feature, views, label, text, logit_scale, alpha, beta):
    """Logits of one image; `views[v][i]` is view v of support image i."""
    f = normalized(global_feature)
    logits = zero_shot(global_feature, text, logit_scale)
    for own_views, c in zip(zip(*views, strict=True), label, strict=True):
        mean = [sum(column) / len(column) for column in zip(*own_views, strict=True)]
        logits[c] += alpha * math.exp(-beta * (1 - dot(f, normalized(mean))))
    return logits


def clip_adapter(global_feature, text, logit_scale, down, up, ratio):
    """Logits of one image; `down` [d/4, d] and `up` [d, d/4] are the adapter's weights."""
    hidden = [max(dot(row, global_feature), 0) for row in down]
    adapted = [max(dot(row, hidden), 0) for row in up]
    pairs = zip(adapted, global_feature, strict=True)
    return zero_shot([ratio * a + (1 - ratio) * f for a, f in pairs], text, logit_scale)
