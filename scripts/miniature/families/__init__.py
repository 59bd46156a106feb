"""The generative families, one file each.

A family is a module with a class `Model`, a network with

    loss(x, condition, done)   x float32 [N, 48, 16, 16] (`layouts.to_grid`), condition
                               of `layouts.condition`, done the finished share in [0, 1)
    sample(condition)          float32 [N, 48, 16, 16] in about [-1, 1]

A GAN also has a `critic` and its `critic_loss`. Families that draw in codes are made
with a trained VQ-VAE, `Model(vq)`, and keep it beside their own weights.
"""

FAMILIES = {
    "vae": "a VAE; the decoder's mean at a code from the prior",
    "gan": "a GAN: hinge loss, a patch critic, a little L1",
    "flow": "flow matching on straight paths from noise; Euler steps",
    "diffusion": "DDPM on pixels, sampled by DDIM",
    "autoregressive": "a VQ-VAE and a causal transformer over its codes",
    "masked": "masked tokens (MaskGIT) on the same codes",
    "latent": "diffusion in the space of the same VQ-VAE",
    "repaint": "a real scene, one of its things repainted by the VAE",
}
TRAINED_ON = ("vae", "gan", "diffusion")  # those with a training set
NEEDS_CODES = ("autoregressive", "masked", "latent")
