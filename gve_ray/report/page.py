"""Render a report as one self-contained HTML file: a job's template inside the common frame.

Pictures are embedded as data URIs. Texts in a report may come from the web, so templates escape
everything except the package's own SVG, and the frame forbids the browser to load anything. There
are no scripts. The colour scheme, light or dark, follows the reader's setting.
"""

import base64
import io
from importlib.resources import files
from typing import Any

THUMBNAIL = (240, 160)  # pixels; a page of 48 videos stays below a few MB
_FRAME = "frame.html.j2"


def render(package: str, template: str, **values: Any) -> str:
    """Render a template and return the HTML.

    package: the package that contains the template. template: a file that extends frame.html.j2.
    values: of the template's variables. Raises jinja2.UndefinedError for a variable without a
    value.
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
    """Return a JPEG, reduced to fit into `size` (width, height), as a data URI.

    The aspect ratio is kept.
    """
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        image.thumbnail(size)
        small = io.BytesIO()
        image.convert("RGB").save(small, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(small.getvalue()).decode()
