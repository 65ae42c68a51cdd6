"""Autoencoder: squeeze a digit through 32 numbers and get it back.

An encoder e maps an image x (MNIST, 28 x 28 pixels) to a code z = e(x) of k = 32 numbers, a
decoder d maps the code back to an image d(z), and both are trained so that little is lost:

    minimise  1/N sum_n || x_n - d(e(x_n)) ||^2

The squared error is summed over the 784 pixels, which lie in [0, 1], and averaged over the
N images   [after Hinton & Salakhutdinov 2006, who minimise cross-entropy].

    python ae.py

    Epoch 30/30 - Loss:   1.737 - Test:   2.566 - 5.2 s
    Test error per pixel: autoencoder 0.00327, PCA 0.01683, mean image 0.06747
    Right label by 5 nearest neighbours: codes 97.95%, PCA 97.56%, pixels 96.88%
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn as nn
from torch.distributions import MultivariateNormal

from common import load_digits, plot_curves, plot_images, progress, scatter_digits


# ------------------------------------------------------- model
def mlp(*sizes):
    """Linear layers separated by SiLU (a smooth ReLU). (B, sizes[0]) -> (B, sizes[-1])"""
    layers = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        layers += [nn.Linear(n_in, n_out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])  # none after the last


class Autoencoder(nn.Module):
    """784 -> 768 -> 512 -> latent_dim -> 512 -> 768 -> 784, for hidden = [768, 512]"""

    def __init__(self, mean, hidden, latent_dim):
        super().__init__()
        self.register_buffer("mean", mean)  # the mean training image (784,), not trained
        self.encoder = mlp(784, *hidden, latent_dim)
        self.decoder = mlp(latent_dim, *reversed(hidden), 784)
        # Start near the mean image, so the decoder only has to learn how digits differ from it:
        # sigmoid(logit(mean)) = mean. Clamped, since the logit of 0 is infinite.
        self.decoder[-1].bias.data = mean.clamp(0.001, 0.999).logit()

    def encode(self, x):
        """Images (B, 784) in [0, 1] -> codes (B, k)"""
        return self.encoder(x - self.mean)

    def decode(self, z):
        """Codes (..., k) -> images (..., 784) in [0, 1]"""
        return torch.sigmoid(self.decoder(z))


# -------------------------------------------------------- loss
def squared_error(x, x_hat):
    """Summed over the pixels of each image. x (B, 784), x_hat (B, 784) or (784,) -> (B,)"""
    return (x - x_hat).square().sum(1)


# ------------------------------------------------------- train
def train(model, x, test_x, args):
    """Train on x (N, 784). Returns {name: [one value per epoch]} and the seconds it took."""
    opt = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)  # fused: faster
    # OneCycleLR sets Adam's learning rate: it rises to --lr in the first 30% of the steps, then
    # falls to almost 0; momentum (Adam's beta1) does the opposite   [Smith & Topin 2017].
    steps = args.epochs * math.ceil(len(x) / args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, args.lr, total_steps=steps)
    history = {"train_sse": [], "test_sse": []}
    seconds = 0.0

    for epoch in range(1, args.epochs + 1):
        start = time.time()
        total = 0.0
        # x is one tensor in memory: shuffled indices do what a DataLoader would.
        batches = torch.randperm(len(x), device=x.device).split(args.batch_size)
        for idx in progress(batches, f"Epoch {epoch}/{args.epochs}"):
            batch = x[idx]  # (B, 784)
            z = model.encode(batch)  # (B, k)
            x_hat = model.decode(z)  # (B, 784)
            loss = squared_error(batch, x_hat).mean()

            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
            total += len(batch) * loss.detach()  # .item() would make the CPU wait for a GPU

        # The mean over an epoch in which the weights change; test_sse is of the weights at its end.
        train_sse = float(total) / len(x)
        took = time.time() - start
        seconds += took
        test_sse = evaluate(model, test_x)
        history["train_sse"].append(train_sse)
        history["test_sse"].append(test_sse)
        print(f"Epoch {epoch:2d}/{args.epochs} - Loss: {train_sse:7.3f} "
              f"- Test: {test_sse:7.3f} - {took:.1f} s", flush=True)
        if not math.isfinite(train_sse):
            raise SystemExit(f"error: no finite loss in epoch {epoch}; try a lower --lr")
    return history, seconds


# ---------------------------------------------------- evaluate
@torch.no_grad()
def evaluate(model, x):
    """Squared error of reconstructing images x (N, 784): sum over pixels, mean over images."""
    return squared_error(x, model.decode(model.encode(x))).mean().item()


def pca(x, k):
    """Principal component analysis: mean (784,) of x (N, 784), k principal directions (784, k).

    No linear autoencoder with k numbers has a smaller squared error on x. PCA's codes are
    (x - mean) @ directions, its reconstructions mean + codes @ directions.T.
    """
    covariance = x.T.cov(correction=0)  # (784, 784)
    # The directions are the eigenvectors with the largest eigenvalues, which eigh puts last. On
    # the CPU, as MPS (Apple's GPU) lacks it.
    directions = torch.linalg.eigh(covariance.cpu()).eigenvectors[:, -k:]
    return x.mean(0), directions.to(x.device)


def knn_accuracy(codes, labels, test_codes, test_labels, neighbours=5):
    """Share of test codes (M, k) whose nearest training codes (N, k) vote for the right label."""
    votes = []
    for z in test_codes.split(500):  # all M N distances at once would take 2.4 GB
        nearest = torch.cdist(z, codes).topk(neighbours, largest=False).indices  # (500, neighbours)
        # The most frequent label, in a tie the smallest. On the CPU, as MPS lacks mode.
        votes.append(labels[nearest].cpu().mode(1).values)
    return (torch.cat(votes) == test_labels.cpu()).float().mean().item()


@torch.no_grad()
def measure(model, x, y, test_x, test_y, k):
    """Reconstruction error and kNN accuracy of the autoencoder and of PCA with k directions."""
    mean, directions = pca(x, k)
    pca_codes, pca_test_codes = (x - mean) @ directions, (test_x - mean) @ directions
    pca_x_hat = mean + pca_test_codes @ directions.T
    # At the end of training, unlike the history's train_sse.
    train_sse, test_sse = evaluate(model, x), evaluate(model, test_x)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_sse": train_sse,
        "test_sse": test_sse,
        "test_mse": test_sse / 784,
        "pca_mse": squared_error(test_x, pca_x_hat).mean().item() / 784,
        "mean_image_mse": squared_error(test_x, mean).mean().item() / 784,
        "knn_accuracy": knn_accuracy(model.encode(x), y, model.encode(test_x), test_y),
        "pca_knn_accuracy": knn_accuracy(pca_codes, y, pca_test_codes, test_y),
        "pixel_knn_accuracy": knn_accuracy(x, y, test_x, test_y),
    }


@torch.no_grad()
def invent(model, x, test_x):
    """Decode random codes of two kinds, and codes between those of test images.

    x (N, 784), test_x (M, 784). M samples of each kind and M midpoints, for vae.py to measure.
    """
    z = model.encode(test_x)  # (M, k)
    # Draws from N(0, I). Expect poor images: nothing in the loss puts codes there.
    noise = torch.randn_like(z)

    # Draws from a Gaussian with the mean and covariance of the training codes. It needs the
    # covariance's Cholesky factor, hence double precision, which MPS lacks.
    train_z = model.encode(x).cpu().double()  # (N, k)
    covariance = torch.atleast_2d(train_z.T.cov())  # (k, k); for k = 1 cov() is a scalar
    covariance += 1e-6 * torch.eye(len(covariance))  # in case it is singular
    fitted = MultivariateNormal(train_z.mean(0), covariance).sample([len(z)]).float()

    # On the lines from code 0 to code 1, from 2 to 3, ...
    a, b = z[0:10:2, None], z[1:10:2, None]  # (5, 1, k)
    t = torch.linspace(0, 1, 10, device=z.device)[:, None]  # (10, 1)
    lines = a + t * (b - a)  # (5, 10, k)
    return {
        "codes": z,  # (M, k)
        "x_hat": model.decode(z[:10]),  # (10, 784), reconstructions, for a figure of vae.py
        "samples": model.decode(noise),  # (M, 784)
        "fitted_samples": model.decode(fitted.to(z.device)),  # (M, 784)
        # half-way between the code of a test image and that of the next
        "midpoints": model.decode((z + z.roll(-1, 0)) / 2),  # (M, 784)
        "interpolations": model.decode(lines),  # (5, 10, 784)
    }


# ---------------------------------------------------- figures
@torch.no_grad()
def draw_reconstructions(model, test_x, test_y, title, out):
    """The first ten test images, and the ten with the largest error."""
    x_hat = model.decode(model.encode(test_x))
    errors = squared_error(test_x, x_hat)
    labels = ["test image", "reconstruction"]
    title = f"{title}: squared error and label below; mean error of all {errors.mean():.1f}"
    for name, idx in [("reconstructions", torch.arange(10)), ("worst", errors.topk(10).indices)]:
        rows = [test_x[idx], x_hat[idx]]
        notes = [f"{errors[i]:.1f}\nlabel {test_y[i]}" for i in idx]
        plot_images(out / f"ae_{name}.png", rows, title, labels, notes)


def draw_invented(invented, test_y, title, out):
    """Decoded random codes, and decoded codes between those of test images."""
    rows = torch.cat([invented["samples"][:32], invented["fitted_samples"][:32]]).split(8)
    labels = 4 * ["N(0, I)"] + 4 * ["fitted"]
    drawn = "decoded draws from N(0, I), and from a Gaussian fitted to the codes"
    plot_images(out / "ae_prior_samples.png", rows, f"{title}\n{drawn}", labels)

    rows = invented["interpolations"]
    labels = [f"{a} to {b}" for a, b in test_y[:10].view(5, 2)]
    plot_images(out / "ae_interpolation.png", rows, f"{title}: interpolated codes", labels)


# ------------------------------------------------------- main
def parse_args(argv=None):
    p = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = p.add_argument_group("data").add_argument
    add("--data", default="data", metavar="DIR", help="where MNIST is or goes to")
    add("--synthetic", action="store_true", help="digits drawn by common.py, no download")
    add("--limit", type=int, default=60_000, help="use at most this many training images")
    add("--validate", action="store_true", help="test on a held-out sixth of the training set")

    add = p.add_argument_group("model").add_argument
    add("--latent-dim", type=int, default=32, metavar="K", help="dimension of the code")
    add("--hidden", type=int, nargs="+", default=[768, 512], help="widths of the hidden layers")

    add = p.add_argument_group("training").add_argument
    add("--epochs", type=int, default=30, help="passes over the training images")
    add("--batch-size", type=int, default=256, help="images per step")
    add("--lr", type=float, default=3e-3, help="highest learning rate")
    add("--seed", type=int, default=0, help="of weights, order and noise")
    devices = ("auto", "cpu", "cuda", "mps")
    add("--device", default="auto", choices=devices, help="auto: a GPU, if any")

    add = p.add_argument_group("output").add_argument
    add("--out", default="figures", metavar="DIR", help="folder for figures and metrics")

    args = p.parse_args(argv)
    if min(args.latent_dim, *args.hidden, args.epochs, args.batch_size, args.lr) <= 0:
        p.error("sizes, --epochs and --lr must be above 0")
    if args.limit < 10:
        p.error("--limit must be at least 10")
    return args


def main(argv=None):
    """Train, measure, draw. Returns the metrics, as written to OUT/ae_metrics.json."""
    args = parse_args(argv)
    device = torch.device("cpu" if args.device == "auto" else args.device)
    if args.device == "auto" and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)  # numbers nearer to 0 than 1e-38, slow on a CPU, become 0

    name, x, y, test_x, test_y = load_digits(args.data, args.synthetic, args.validate, device)
    x, y = x[: args.limit], y[: args.limit]
    # load_digits also draws digits if MNIST is unavailable: their figures go to their own folder.
    out = Path(args.out, "synthetic") if name.startswith("drawn") else Path(args.out)
    print(f"{name}: {len(x):,} training and {len(test_x):,} test images, on {device}")
    plot_images(out / "ae_data.png", x[:50].split(10), f"{name}: training images")

    model = Autoencoder(x.mean(0), args.hidden, args.latent_dim).to(device)
    history, seconds = train(model, x, test_x, args)
    final = measure(model, x, y, test_x, test_y, args.latent_dim)
    invented = invent(model, x, test_x)

    title = f"Autoencoder, {name}, k = {args.latent_dim}"
    curves = {"training": history["train_sse"], "test": history["test_sse"]}
    curves["PCA, test"] = 784 * final["pca_mse"]  # a flat line
    plot_curves(out / "ae_loss.png", {"squared error per image": curves}, title)
    scatter_digits(out / "ae_latent.png", {f"{title}: codes": invented["codes"]}, test_y)
    draw_reconstructions(model, test_x, test_y, title, out)
    draw_invented(invented, test_y, title, out)

    # These images, codes and measures are for vae.py, to compare with its own. It finds the file by
    # its name, by default "checkpoints/figures/ae MNIST 60000-768-512-32-30.pt": --out, data set,
    # number of images, --hidden, --latent-dim, --epochs.
    sizes = [len(x), *args.hidden, args.latent_dim, args.epochs]
    for_vae = Path("checkpoints", out, f"ae {name} {'-'.join(map(str, sizes))}.pt")
    for_vae.parent.mkdir(parents=True, exist_ok=True)
    torch.save(invented | final, for_vae)

    metrics = {
        "script": "ae.py", "args": vars(args), "dataset": name,
        "torch": torch.__version__, "device": str(device),
        "seconds": seconds, "images_per_second": args.epochs * len(x) / seconds,
        "history": history, "final": final,
    }
    (out / "ae_metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(f"Test error per pixel: autoencoder {final['test_mse']:.5f}, "
          f"PCA {final['pca_mse']:.5f}, mean image {final['mean_image_mse']:.5f}")
    print(f"Right label by 5 nearest neighbours: codes {final['knn_accuracy']:.2%}, "
          f"PCA {final['pca_knn_accuracy']:.2%}, pixels {final['pixel_knn_accuracy']:.2%}")
    print(f"torch {torch.__version__}, {device}, {seconds:.0f} s of training; figures in {out}")
    return metrics


if __name__ == "__main__":
    # A notebook cell has no __file__, and its sys.argv is the kernel's.
    main([] if "__file__" not in globals() else None)
