"""What a recording costs a training, beside a plain copy of the same vectors and the steps without it.

    python benches/recorder.py WORK

A convolutional network of 3.4 million parameters trains on two threads, by blocks of steps with and
without vectors, so that both meet the same machine. The hooks' time stands beside a copy of as many
bytes in the same step (medians); a block with vectors ends with all of them on the disk (means).
"""

import shutil
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch

import lpa

CLASSES = 2500


def network():
    torch.manual_seed(0)
    layers, channels = [], 3
    for width in (64, 128, 256, 256, 512):
        layers += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.BatchNorm2d(width), torch.nn.ReLU()]
        if width in (64, 128, 256):
            layers.append(torch.nn.MaxPool2d(2))
        channels = width
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                               torch.nn.Linear(512, CLASSES))


class Clock:
    """Adds up the time that a function takes."""

    def __init__(self, function):
        self.function, self.seconds = function, 0.0

    def __call__(self, *args):
        begin = time.perf_counter()
        result = self.function(*args)
        self.seconds += time.perf_counter() - begin
        return result


def measure(path, batch, block, blocks):
    """Seconds of the hooks and of a copy at each recorded step; seconds a step by block, without and with."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(CLASSES, (batch,))
    parameters = sum(p.numel() for p in model.parameters())
    source, target = torch.randn(2, parameters), torch.zeros(2, parameters)
    hooks, copies, steps = [], [], {False: [], True: []}
    with lpa.record(path, model, optimizer, sample=lambda t: t // block % 2 == 1, verify=False) as rec:
        clocks = [Clock(rec._before), Clock(rec._after)]
        hooks_of = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
        for registered, clock in zip(hooks_of, clocks, strict=True):
            registered.update({key: clock for key in registered})
        for step in range(2 * block * blocks):
            recorded = step // block % 2 == 1
            if step % block == 0:
                begin, apart = time.perf_counter(), 0.0
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            copying = time.perf_counter()
            target[0].copy_(source[0])
            target[1].copy_(source[1])
            apart += time.perf_counter() - copying
            if recorded:
                copies.append(time.perf_counter() - copying)
            before = sum(c.seconds for c in clocks)
            optimizer.step()
            if recorded:
                hooks.append(sum(c.seconds for c in clocks) - before)
            if step % block == block - 1:
                if recorded:
                    rec.flush()
                steps[recorded].append((time.perf_counter() - begin - apart) / block)
    # The first block of each kind warms up.
    return hooks[block:], copies[block:], steps[False][1:], steps[True][1:]


def main():
    work = Path(sys.argv[1])
    work.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    print(f"{sum(p.numel() for p in network().parameters()):,} parameters, SGD with momentum, two threads")
    for batch, block in ((96, 10), (16, 30)):
        hooks, copies, plain, recorded = measure(work / str(batch), batch, block, 7)
        hook, copy = statistics.median(hooks) * 1e3, statistics.median(copies) * 1e3
        without, with_ = statistics.mean(plain), statistics.mean(recorded)
        print(f"batch {batch}: the training waits {hook:.2f} ms a step, a copy of g and x takes {copy:.2f} ms: "
              f"{hook / copy:.2f} times; a step takes {without:.3f} s, recorded {with_:.3f} s: "
              f"{(with_ / without - 1) * 100:+.1f} %", flush=True)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
