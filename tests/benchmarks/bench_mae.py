"A step of MAE with 75 % masked, against the same ViT on all patches and against MAE built from lightly's modules."
from functools import partial
from statistics import median

from common import ms, options, show, take_turns
import torch
import torch.nn.functional as F
from lightly.models import utils
from lightly.models.modules import MAEDecoder, MaskedVisionTransformerTorchvision
from torch import nn
from torchvision.models import VisionTransformer

from sslnb import models
from sslnb.augment import RECIPES
from sslnb.core import rng
from sslnb.methods import MAE, Batch
from sslnb.models import Normalize
from sslnb.vit import PRESETS, patch_for, pick


class AllPatches(MAE):
    "The encoder works on all patches; everything else is as in MAE."
    def predict(self, x, shown, masked): return self.decoder(pick(self.encoder.encode(x), shown), shown, masked)


class Lightlys(nn.Module):
    "MAE as lightly's documentation puts its modules together, without timm; they always have a class token."
    def __init__(self, side: int, patch: int, dim: int, depth: int, heads: int, width: int, blocks: int):
        super().__init__()
        self.backbone = MaskedVisionTransformerTorchvision(VisionTransformer(side, patch, depth, heads, dim, 4 * dim))
        self.patch, self.length = patch, self.backbone.sequence_length
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder = MAEDecoder(self.length, blocks, width // 32, dim, width, 4 * width, 3 * patch**2)

    def views(self, batch, recipe, generator): return batch.x.float() / 255

    def loss(self, x, batch):
        keep, hide = utils.random_token_mask((len(x), self.length), 0.75, device=x.device)
        seen = self.decoder.embed(self.backbone.encode(x, idx_keep=keep))
        tokens = utils.repeat_token(self.mask_token, (len(x), self.length))
        tokens = utils.set_at_index(tokens, keep, seen.type_as(tokens))
        guess = self.decoder.head(utils.get_at_index(self.decoder.decode(tokens), hide))
        return F.mse_loss(guess.float(), utils.get_at_index(utils.patchify(x, self.patch), hide - 1))


def step(method, optimizer, batch, precision, generator) -> int:
    "Views, loss, gradients, new weights."
    views = method.views(batch, RECIPES["none"], generator)
    with models.autocast(precision, batch.x.device): loss = method.loss(views, batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return 1


def contenders(args) -> dict:
    "Name -> work: one step on the same images, with networks of the same sizes."
    g = rng("images", device=args.device)
    shape = args.batch, 3, args.side, args.side
    batch = Batch(torch.randint(256, shape, generator=g, device=args.device, dtype=torch.uint8), None, None)
    precision = args.precision or models.fast_precision(args.device)
    def work(method, precision=precision):
        optimizer = torch.optim.Adam((p for p in method.parameters() if p.requires_grad), 1e-4, fused=True)
        return partial(step, method.to(args.device).train(), optimizer, batch, precision, g)
    def ours(kind, decoder):
        encoder = models.make_encoder(args.encoder, Normalize(torch.full((3,), 0.5), torch.full((3,), 0.3)), 3, args.side)
        return work(kind(encoder, None, decoder=decoder, width=args.width, depth=args.depth))
    theirs = partial(Lightlys, args.side, patch_for(args.side), **PRESETS[args.encoder], width=args.width,
                     blocks=args.depth)
    return {"mlp": ours(MAE, "mlp"), "mlp, all patches": ours(AllPatches, "mlp"),
            "transformer": ours(MAE, "transformer"), "transformer, all patches": ours(AllPatches, "transformer"),
            "transformer, lightly": work(theirs()), "transformer, lightly, fp32": work(theirs(), "fp32")}, precision


def main():
    parser = options(__doc__)
    parser.add_argument("--encoder", default="vit_tiny", choices=PRESETS)
    parser.add_argument("--side", type=int, default=32, help="pixels")
    parser.add_argument("--width", type=int, default=64, help="of the transformer decoder")
    parser.add_argument("--depth", type=int, default=2, help="of the transformer decoder")
    parser.add_argument("--precision", choices=["bf16", "fp32"], help="default: what is fast here")
    args = parser.parse_args()
    works, precision = contenders(args)
    times = take_turns(works, args.rounds, args.device)
    goals = {"all patches": "≥ 2.5", "lightly": "≥ 1"}
    def row(name, t):
        decoder, _, what = name.partition(", ")
        return {"decoder": decoder, "encoder": what or "25 % of the patches", "ms/step (min–max)": ms(t),
                "images/s": f"{args.batch / median(t):,.0f}",
                "sslnb is faster by": f"{median(t) / median(times[decoder]):.2f}", "goal": goals.get(what, "")}
    show(f"mae-{args.encoder}", [row(*item) for item in times.items()], args, images=f"noise, {args.side} pixels",
         precision=precision, width=args.width, depth=args.depth, rounds=args.rounds)


if __name__ == "__main__": main()
