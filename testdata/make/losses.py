"""The rows that losses of fixtures are of, and the loss that a model of transformers has on them."""

import torch


def rows():
    g = torch.Generator().manual_seed(7)
    return [torch.randint(5, 300, (n,), generator=g).tolist() for n in (30, 21, 26)]


def loss(model):
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows():
            ids = torch.tensor([row])
            logp = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
            total -= logp[torch.arange(len(row) - 1), ids[0, 1:]].sum().item()
            count += len(row) - 1
    return total / count
