"""A small decoder-only transformer for language modelling.

Architecture and initialisation as in GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
2.3): layer normalisation before each part and at the end, learned positions, residual projections scaled by
1/sqrt(2 depth).
Attention: arXiv:1706.03762. GELU: arXiv:1606.08415. Tied weights: arXiv:1608.05859.

Shapes: B batch, T tokens, V vocabulary, W width, H heads, D width of a head (W / H).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.errors import ConfigError
from runner.models.arguments import dropout_problems, size_problems


class GPT(nn.Module):
    """Logits (B, T, V) of each next token, from tokens: (B, T) int64 in [0, V), with T <= context."""

    def __init__(
        self,
        vocabulary_size: int,
        context: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        tie_weights: bool,
    ) -> None:
        """`tie_weights`: the output layer is the embedding itself. Raises ConfigError for arguments out of range."""
        super().__init__()
        problems = size_problems(
            vocabulary_size=vocabulary_size, context=context, width=width, depth=depth, heads=heads
        ) + dropout_problems(dropout)
        if heads >= 1 and width % heads:
            problems.append(f"model.width is {width} and model.heads {heads}; wanted a width that its heads divide")
        if problems:
            raise ConfigError(problems)
        self.context = context
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary_size, bias=False)
        if tie_weights:
            self.output.weight = self.embedding.weight
        self._initialise(depth)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        length = tokens_BT.shape[1]
        if length > self.context:
            raise ValueError(
                f"{length} tokens were given to a model with a context of {self.context}; cut them, or set "
                "model.context (data.context) to what is needed"
            )
        positions_T = torch.arange(length, device=tokens_BT.device)
        x_BTW = self.dropout(self.embedding(tokens_BT) + self.positions(positions_T))
        for block in self.blocks:
            x_BTW = block(x_BTW)
        logits_BTV: Tensor = self.output(self.norm(x_BTW))
        return logits_BTV

    @torch.no_grad()
    def generate(
        self, tokens_BT: Tensor, length: int, *, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        """`tokens_BT` (T >= 1) followed by `length` sampled tokens: (B, T + length). Modes are left as they were.

        Temperature 0 takes the most probable token. `generator` must be on the model's device; None is the global one.
        """
        if length < 0 or temperature < 0.0 or tokens_BT.shape[1] < 1:
            raise ValueError(
                f"length is {length}, temperature {temperature}, and {tokens_BT.shape[1]} tokens were given; "
                "wanted length 0 or more, temperature 0 or more, and at least one token"
            )
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            for _ in range(length):
                logits_BV = self(tokens_BT[:, -self.context :])[:, -1]
                if temperature:
                    probabilities_BV = torch.softmax(logits_BV.float() / temperature, dim=-1)
                    next_B1 = torch.multinomial(probabilities_BV, 1, generator=generator)
                else:
                    next_B1 = logits_BV.argmax(dim=-1, keepdim=True)
                tokens_BT = torch.cat([tokens_BT, next_B1], dim=1)
        finally:
            for module, training in modes:
                module.training = training
        return tokens_BT

    def _initialise(self, depth: int) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue  # Biases are zeroed below; normalisations begin as the identity.
            # The two projections of each block that add to the residual stream: its variance would grow with the depth.
            residual = name.endswith("project.weight")
            nn.init.normal_(parameter, mean=0.0, std=0.02 / math.sqrt(2 * depth) if residual else 0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


class Block(nn.Module):
    """Attention, then a feed-forward part, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x_BTW: Tensor) -> Tensor:
        x_BTW = x_BTW + self.attention(self.attention_norm(x_BTW))
        y_BTW: Tensor = x_BTW + self.feed_forward(self.feed_forward_norm(x_BTW))
        return y_BTW


class Attention(nn.Module):
    """Multi-head attention in which a token sees itself and those before it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTW: Tensor) -> Tensor:
        batch, length, width = x_BTW.shape
        query, key, value = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.query_key_value(x_BTW).split(width, dim=-1)
        )
        y_BHTD = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout.p if self.training else 0.0, is_causal=True
        )
        y_BTW: Tensor = self.dropout(self.project(y_BHTD.transpose(1, 2).reshape(batch, length, width)))
        return y_BTW


class FeedForward(nn.Module):
    """Each token by itself: four times as wide, GELU, and back."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 4 * width)
        self.project = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTW: Tensor) -> Tensor:
        y_BTW: Tensor = self.dropout(self.project(functional.gelu(self.expand(x_BTW), approximate="tanh")))
        return y_BTW
