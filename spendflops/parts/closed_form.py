"""Counter A: closed forms of layers, and of whole ViTs, from which a plugin can build its own.

Letters: N tokens, D width, L layers, P patch side, n patches, C classes, r MLP ratio. All results are FLOPs per image
with 2 FLOPs per multiply-add. Matrix products only: biases, norms, softmax, activations, losses and the optimiser are
not counted. The number of attention heads cancels.

Backward, a product costs as much again for each of its operands that a gradient is asked of: 3 times the forward cost
inside a network, 2 times for its first layer, whose input is the image, or for a product with a constant.
"""


def linear(tokens: int, inputs: int, outputs: int) -> int:
    """A linear layer on every token: 2 N Din Dout."""
    return 2 * tokens * inputs * outputs


def patch_embedding(patches: int, patch: int, width: int, *, channels: int = 3) -> int:
    """The patch embedding: 2 n D (c P^2)."""
    return linear(patches, channels * patch * patch, width)


def transformer(
    tokens: int,
    width: int,
    layers: int,
    *,
    mlp_ratio: int = 4,
    inner: int | None = None,
    hidden: int | None = None,
    pairs: int | None = None,
) -> int:
    """Forward pass of L blocks: 2 L (4 N D I + 2 P I + 2 N D M).

    The terms are qkv (3 N D I) with the output projection (N D I), logits with attention times value (2 P I), and the
    two MLP products. With I = D, M = 4 D and P = N^2 this is 2 L (12 N D^2 + 2 N^2 D).

    Args:
        tokens: N.
        width: D.
        layers: L.
        mlp_ratio: M / D, where ``hidden`` is not given.
        inner: I, heads times their width; D by default.
        hidden: M, width between the MLP's products.
        pairs: P, of a query and a key; N^2 by default. W windows of S tokens have W S^2.
    """
    inner = width if inner is None else inner
    hidden = mlp_ratio * width if hidden is None else hidden
    pairs = tokens**2 if pairs is None else pairs
    return 2 * layers * (4 * tokens * width * inner + 2 * pairs * inner + 2 * tokens * width * hidden)


def resize(old: tuple[int, int], new: tuple[int, int], width: int) -> int:
    """A table of ``old`` rows and columns resampled to ``new``, rows first: 2 D (y r c + y x c), 0 if equal.

    Once a call, not an image. The matrices are constants: backward costs as much again, where the table is learned.
    """
    if tuple(old) == tuple(new):
        return 0
    return 2 * width * (new[0] * old[0] * old[1] + new[0] * new[1] * old[1])


def convolution(
    size: tuple[int, int], inputs: int, outputs: int, *, kernel: int, stride: int = 1
) -> tuple[int, tuple[int, int]]:
    """A convolution with odd square kernels and padding of half a kernel: its cost, and the size of its result.

    2 Cin Cout times, for each axis, the pairs of a tap and a result that meet a pixel: products with padding are not
    counted.
    """
    pairs, result = 1, []
    for extent in size:
        count = (extent - 1) // stride + 1
        result.append(count)
        places = (out * stride + tap - kernel // 2 for out in range(count) for tap in range(kernel))
        pairs *= sum(0 <= place < extent for place in places)
    return 2 * inputs * outputs * pairs, (result[0], result[1])


def vit_forward(*, image: int, patch: int, width: int, layers: int, classes: int = 0, cls: bool = True) -> int:
    """ViT forward: 2 [3 n D P^2 + L (12 N D^2 + 2 N^2 D) + D C].

    Args:
        image: Side of the square image, in pixels.
        patch: Side of a patch, in pixels.
        width: D.
        layers: L.
        classes: C; 0 for no head.
        cls: Whether a class token joins the patches (N = n + 1).
    """
    patches = (image // patch) ** 2
    return (
        patch_embedding(patches, patch, width) + transformer(patches + cls, width, layers) + linear(1, width, classes)
    )


def vit_train(*, image: int, patch: int, width: int, layers: int, classes: int = 0, cls: bool = True) -> int:
    """ViT forward and backward: 3 F - 2 (3 n D P^2).

    Each product needs one more for the gradient of each input, except the patch embedding: nobody asks for the
    gradient of the image.
    """
    forward = vit_forward(image=image, patch=patch, width=width, layers=layers, classes=classes, cls=cls)
    return 3 * forward - patch_embedding((image // patch) ** 2, patch, width)
