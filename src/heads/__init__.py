"""One paper each: plain modules from features to logits.

A head names its `inputs`, features of an image that its `forward` takes in that order:
`global` `[n, d]` and `spatial` `[n, s, d]`, as CLIP gives them (a head normalises them where its
paper does). A head whose settings can be searched also has `lines`, see `src.selection`. One that
looks at the support set before it is used, be it trained or not, has `prepare(support)`. One that
learns its prompt's context says `learns_context` and gets the text tower instead of text features.
Of a point cloud, each view is shown to a head as an image (`MultiView`). One that takes all views
together, `[n, v, ...]`, says `joins_views`; one that has no such reading says `images_only`.
"""
