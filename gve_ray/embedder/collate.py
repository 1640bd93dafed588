"""Turn items into one padded batch of tensors. Every caller of the model uses this collator."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gve_ray.embedder.conversation import render
from gve_ray.embedder.model_families import Grid, ModelFamily, Span, TokenIds, positions
from gve_ray.embedder.settings import EMBED_TOKEN, EmbedderSettings
from gve_ray.embedder.vision import Patches, PatchSpec, check_media, to_patches
from gve_ray.schema import Frames, Item

# Placeholders for an item's instruction and text where they are tokenised separately from the
# template. They contain private-use characters, which no template has.
_PLACEHOLDERS = ("\ue0f0instruction\ue0f1", "\ue0f0text\ue0f1")
_AT_PLACEHOLDERS = re.compile(f"({'|'.join(_PLACEHOLDERS)})")


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One item, tokenised and split into patches, not yet padded.

    prompt_ids: int64 [P], with one placeholder token per image or video. input_ids: int64 [L], with
    each placeholder expanded to its visual tokens. position_ids: int64 [3, L]. was_cut: whether the
    text was cut to `max_tokens`.
    """

    item: Item
    prompt_ids: np.ndarray
    input_ids: np.ndarray
    position_ids: np.ndarray
    image: Patches | None
    video: Patches | None
    was_cut: bool

    def __len__(self) -> int:
        return len(self.input_ids)


def lengths_and_cuts(rows: Sequence[Encoded]) -> dict[str, np.ndarray]:
    """Return the fields `tokens` and `cut` of `Embeddings`."""
    return {"tokens": np.array([len(row) for row in rows]), "cut": np.array([row.was_cut for row in rows])}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Padded tensors of B items, the longest of which has L tokens.

    input_ids, attention_mask: int64 [B, L]. position_ids: int64 [3, B, L]. image_patches,
    video_patches: uint8 [N, 3*K], the patches of all images (videos) in row order, or None.
    image_grid, video_grid: int64 [number, 3], (t, h, w) in patches, or None. Padding is at the ends
    of rows, so causal attention needs no mask and can use its fastest kernel: no token attends to
    padding.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    image_patches: torch.Tensor | None = None
    image_grid: torch.Tensor | None = None
    video_patches: torch.Tensor | None = None
    video_grid: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Return the batch with all tensors on `device`."""
        tensors = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return Batch(**{name: t.to(device, non_blocking=non_blocking) for name, t in tensors.items()})


class Collator:
    """Makes a `Batch` of items whose media are in memory. Runs on the CPU and can be pickled.

    processor: the checkpoint's Hugging Face processor (template, tokenizer, image statistics).
    config: the checkpoint's Hugging Face config. A call raises ValueError for an item that the
    model cannot take.
    """

    def __init__(
        self,
        settings: EmbedderSettings,
        processor: Any,
        *,
        family: ModelFamily,
        config: Any,
    ) -> None:
        self.settings = family.complete(settings)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.family = family
        self.vision_config = config.vision_config
        self.spec = PatchSpec.from_processor(processor.image_processor)
        self.ids = TokenIds(
            image=config.image_token_id,
            video=config.video_token_id,
            vision_start=config.vision_start_token_id,
            vision_end=config.vision_end_token_id,
        )
        added = self.tokenizer.added_tokens_decoder.values()
        self._special = tuple(token.content for token in added if token.special)
        pad = self.tokenizer.pad_token_id
        self._pad_id = self.tokenizer.convert_tokens_to_ids(EMBED_TOKEN) if pad is None else pad

    def __call__(self, items: Sequence[Item]) -> Batch:
        return self.pad(self.encode(items))

    def encode(self, items: Sequence[Item]) -> list[Encoded]:
        """Tokenise each item and split its media into patches; only padding is missing."""
        texts = [render(item, self._system_turn(item), self.processor) for item in items]
        tokenised = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [self._encode(*row) for row in zip(items, tokenised, strict=True)]

    def pad(self, rows: Sequence[Encoded]) -> Batch:
        """Pad encoded items to the length of the longest."""
        longest = max(len(row) for row in rows)
        ids = np.full((len(rows), longest), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        position_ids = np.zeros((3, len(rows), longest), dtype=np.int64)
        for i, row in enumerate(rows):
            where = slice(len(row))
            ids[i, where], mask[i, where], position_ids[:, i, where] = row.input_ids, 1, row.position_ids
        images = [row.image for row in rows if row.image is not None]
        videos = [row.video for row in rows if row.video is not None]
        return Batch(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            position_ids=torch.from_numpy(position_ids),
            image_patches=torch.cat([p.pixels for p in images]) if images else None,
            image_grid=torch.tensor([p.grid for p in images]) if images else None,
            video_patches=torch.cat([p.pixels for p in videos]) if videos else None,
            video_grid=torch.tensor([p.grid for p in videos]) if videos else None,
        )

    def _encode(self, item: Item, prompt_ids: list[int]) -> Encoded:
        visual = {slot: self._visual(item, slot) for slot in ("image", "video")}
        if self._spells_special(item):
            prompt_ids = self._encode_in_parts(item)
        spans = self._spans(prompt_ids, item, visual)
        excess = sum(len(span.ids) for span in spans) - self.settings.max_tokens
        if excess > 0:
            prompt_ids = self._encode_in_parts(item, cut=excess)
            spans = self._spans(prompt_ids, item, visual)
        return Encoded(
            item=item,
            prompt_ids=np.asarray(prompt_ids, dtype=np.int64),
            input_ids=np.concatenate([np.asarray(span.ids, dtype=np.int64) for span in spans]),
            position_ids=positions(spans),
            image=visual["image"],
            video=visual["video"],
            was_cut=excess > 0,
        )

    def _visual(self, item: Item, slot: str) -> Patches | None:
        frames = getattr(item, slot)
        if frames is None:
            return None
        if not isinstance(frames, Frames):
            raise TypeError(f"Item.{slot}={frames!r} is a reference; call load_media before collating")
        check_media(frames, slot)
        return to_patches(frames, self.settings, self.spec)

    def _spans(self, prompt_ids: Sequence[int], item: Item, visual: dict[str, Patches | None]) -> list[Span]:
        """Expand the placeholders of a prompt into spans of visual tokens."""
        spans: list[Span] = []
        text: list[int] = []
        for token in prompt_ids:
            if token == self.ids.image and visual["image"] is not None:
                grid = self._token_grid(visual["image"])
                expanded = [Span(ids=[token] * int(np.prod(grid)), grid=grid)]
            elif token == self.ids.video and visual["video"] is not None:
                grid = self._token_grid(visual["video"])
                assert isinstance(item.video, Frames)
                expanded = self.family.video_spans(
                    item.video, grid, self.ids, self.vision_config, self._encode_text
                )
            else:
                text.append(token)
                continue
            spans += [Span(ids=text), *expanded]
            text = []
        return [*spans, Span(ids=text)]

    def _token_grid(self, patches: Patches) -> Grid:
        t, h, w = patches.grid
        return t, h // self.spec.merge, w // self.spec.merge

    def _system_turn(self, item: Item) -> str:
        default = self.settings.default_instruction
        assert default is not None, "ModelFamily.complete sets it"
        return self.family.system_turn(item.instruction or default)

    def _encode_text(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _spells_special(self, item: Item) -> bool:
        """Whether the item's own text contains the spelling of a special token."""
        own_text = (item.instruction or "") + (item.text or "")
        return any(token in own_text for token in self._special)

    def _encode_in_parts(self, item: Item, cut: int = 0) -> list[int]:
        """Tokenise the item's own text separately from the template, without its last `cut` tokens.

        Special tokens spelled out in the item's text become plain text: a query that contains
        "<|video_pad|>" must not break its batch. The cut keeps the closing tokens of the turn.
        Raises ValueError if the text is shorter than the cut, that is, if the media alone exceed
        the limit.
        """
        with_placeholders = replace(item, text=_PLACEHOLDERS[1] if item.text else None)
        system = self._system_turn(item)
        prompt = render(with_placeholders, _PLACEHOLDERS[0] if item.instruction else system, self.processor)
        ids: list[int] = []
        for part in _AT_PLACEHOLDERS.split(prompt):
            if part not in _PLACEHOLDERS:
                ids += self._encode_text(part)
                continue
            own_text = system if part == _PLACEHOLDERS[0] else item.text
            tokens = self.tokenizer.encode(own_text, add_special_tokens=False, split_special_tokens=True)
            if part == _PLACEHOLDERS[1]:
                keep = max(len(tokens) - cut, 0)
                cut -= len(tokens) - keep
                tokens = tokens[:keep]
            ids += tokens
        if cut > 0:
            raise ValueError(
                f"the sequence is {cut} tokens over max_tokens={self.settings.max_tokens} even without its "
                "text; use fewer frames, a smaller max_pixels or a shorter instruction"
            )
        return ids
