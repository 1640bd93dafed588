"""One HTML file that needs nothing else: a job's template inside the common frame, pictures as data URIs.

Texts come from the web, so templates escape everything but our own SVG, and the frame forbids the browser
to load anything. There is no script; light and dark follow the reader's setting.
"""

import base64
import io
from importlib.resources import files
from typing import Any

THUMBNAIL = (240, 160)  # pixels; a page of 48 videos stays below a few MB
_FRAME = "frame.html.j2"


def render(package: str, template: str, **values: Any) -> str:
    """`template` of a package, which extends frame.html.j2, with its values as one HTML text.

    Raises jinja2.UndefinedError for a name of the template that has no value.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    folders = {_FRAME: "gve_ray.report", template: package}
    texts = {name: (files(where) / name).read_text(encoding="utf-8") for name, where in folders.items()}
    environment = Environment(
        loader=DictLoader(texts),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def picture(jpeg: bytes, *, size: tuple[int, int] = THUMBNAIL, quality: int = 80) -> str:
    """A JPEG as a small data URI. size: (width, height) it has to fit into; its shape is kept."""
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        image.thumbnail(size)
        small = io.BytesIO()
        image.convert("RGB").save(small, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(small.getvalue()).decode()
