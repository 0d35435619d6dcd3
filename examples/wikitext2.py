"""WikiText-2: a transformer language model, the paper's experiment on batch sizes.

    python examples/wikitext2.py DATA --run runs/wikitext2
    python examples/wikitext2.py --smoke --run /tmp/smoke

DATA holds `wiki.train.tokens` and `wiki.valid.tokens`. The text is cut into windows of 32 words. The
paper's own code takes the beginnings of lines, pads them and counts the padding as words, so that its
perplexity is not of the same text.
"""

from collections import Counter

import torch
from models import Transformer
from torch.utils.data import TensorDataset
from training import arguments, smoke_words, square_root_rule, train

WINDOW = 32


def load(directory):
    """The words to train on and to validate on."""
    read = lambda name: (directory / name).read_text(encoding="utf-8").replace("\n", " <eos> ").split()
    return read("wiki.train.tokens"), read("wiki.valid.tokens")


def windows(words, numbers):
    """Windows of words, and beside each the words that follow."""
    stream = torch.tensor([numbers.get(word, numbers["<unk>"]) for word in words])
    count = (len(stream) - 1) // WINDOW
    cut = lambda start: stream[start:start + count * WINDOW].view(count, WINDOW)
    return TensorDataset(cut(0), cut(1))


def main():
    a = arguments(
        __doc__, ["transformer"], dataset="WikiText-2",
        paper={"batch": 64, "epochs": 20, "optimizer": "adam", "lr": square_root_rule(1e-4, 64), "weight_decay": 1e-5,
               "layers": 12},
        smoke={"batch": 32, "epochs": 3, "width": 0.5, "layers": 2, "lr": 1e-3})
    training, validation = smoke_words() if a.smoke else load(a.data)
    # Every word of WikiText-2; of the text for --smoke only the most frequent.
    common = Counter(training).most_common(1000 if a.smoke else None)
    numbers = {word: i for i, word in enumerate(dict.fromkeys(["<unk>", *(word for word, _ in common)]))}
    model = Transformer(len(numbers), a.width, a.layers)
    train(a, model, windows(training, numbers), windows(validation, numbers), measure="perplexity", clip=0.25,
          paper="60.72 after 20 epochs")


if __name__ == "__main__":
    main()
