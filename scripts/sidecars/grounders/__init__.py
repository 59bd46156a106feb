"""Grounders: models that find the phrases of a caption in its image, one file each.

A grounder is a class

    class Grounder(model, *, name, dtype, local_rank):
        settings           dict for `run.json`: id, revision, ...
        reader_threshold   the score from which its boxes are usually trusted
        prepare(image)     uint8 [H, W, 3] -> what `ground` takes; runs in threads
        ground(prepared, captions, phrases)   three lists of equal length ->
                           per image `(boxes [Q, 4], scores [Q, P])`, NumPy

and its file has `MODELS`, `{name: Hub id of the default model, or ""}`: one class may
serve several names. A grounder of your own needs no file here: `--grounder
package.module` takes the class `Grounder` of that module, `package.module:Name` another
one. If its module has `MODELS`, the first entry is the default model.

Boxes are (x1, y1, x2, y2) in fractions of the image's width and height. P is the number
of phrases of the image, `{"phrase", "span"}` each. The score of a box for a phrase is
the mean over the phrase's tokens of the sigmoid of their logits, GLIP's "MEAN"; OWLv2,
which sees whole phrases, has one logit per phrase. `prepare` must not use a fast
tokenizer, which two threads may not use at once.
"""
