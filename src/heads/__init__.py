"""One paper each: plain modules from features to logits.

A head names its `inputs`, features of an image that its `forward` takes in that order:
`global` `[n, d]` and `spatial` `[n, s, d]`, of any length (the head normalises). A head whose
settings can be searched also has `lines`, see `src.selection`. One that looks at the support set
before it is used, be it trained or not, has `prepare(support)`.
"""
