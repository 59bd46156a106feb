"""The papers' tables and figures on the real benchmarks, with CLIP ViT-L/14.

    item-jax paper all --config=paper_vitl14 --workdir RUN

computes what the workdir allows and lists the rest with the commands that make it.
Nobody has run all of this yet: disk and hours below are estimates from published sizes
and rates, not measurements.

1. Download (about 100 GB packed for what follows; the addresses are in the repositories
   of CNNDetection, UniversalFakeDetect, DIRE and GenImage). Put each below one folder
   DATA, as downloaded:
     ForenSynths   train/progan (progan_train, 72 GB), test (CNN_synth_testset, 19 GB)
     UniFD         diffusion_datasets (9,000 images)
     GenImage      ADM, glide, VQDM, the `val` folders (36,000 images)
     DIRE          images/test/lsun_bedroom; for Fig. 6 images/train/imagenet
   Further columns, such as Synthbuster, are further folders: `synthbuster=Synthbuster`
   below, and `--config.paper.columns_3=genimage,diffusionforensics,synthbuster`.
2. Caption and ground all of DATA, then index it (the default `--train-subset` is
   20 x 2,000 ProGAN images a label, ITEM's 40,000 + 40,000):
     python scripts/caption.py --images DATA --out C --model Salesforce/blip2-opt-2.7b
     python scripts/ground.py  --images DATA --out O --captions C/captions.jsonl
     item-jax index --images DATA --generators paper --out RUN/records.jsonl \\
         --captions C/captions.jsonl --objects O/objects.jsonl --benchmark \\
         forensynths=ForenSynths,unifd=UniFD,genimage=GenImage,diffusionforensics=DIRE
   About 240,000 images: an estimate of 12 to 40 hours of one GPU for captions and boxes
   together, shared by as many GPUs as there are (`scripts/README.md`).
3. Embed once (an estimate: 1 to 2 hours on one H100 in bfloat16, or on a TPU v5e host),
   then `item-jax paper all`. It embeds the nine perturbed test sets itself
   (`paper.robustness` only names the generators that are reported), fits every method
   and writes RUN/results/paper/.
4. Fig. 7 needs captions of BLIP and LLaVA: name their records by
   `--config.paper.captioners=llava.jsonl,blip.jsonl`. Fig. 4 with captions of the
   perturbed images: `--config.paper.perturbed=...`. Fig. 8: `paper.towers`.
5. The systems on pixels (ResNet-50, Swin-T, Patchforensics, F3Net, CNNDet, NPR) train
   for hours each: name them in `--config.paper.methods`, as the tables' lists of what
   is missing do, and ImageNet's weights for those that start from them,
   `--config.paper.start=cnndet=resnet50.safetensors,swin_t=swin.safetensors`. DIRE
   needs error maps besides: `scripts/reconstruct.py`, days of one GPU, and
   `--config.data.error_maps=MAPS`. TIDY says that all were trained from scratch.

Expected, if the papers can be reproduced: ITEM 90.90 ACC and 97.05 AP on average over
the 16 columns of Tables I and II, 87.29 and 95.49 over the 12 of Table III; UniFD 87.17
and 95.34, 79.55 and 92.20. Cells of Midjourney and DALLE-2 rest on 100 and 500 fakes.
"""

from item_jax import config


def get_config():
    c = config.default()
    c.dtype = "bfloat16"
    c.train.generators = ("progan",)
    c.train.seeds = 5
    return c
