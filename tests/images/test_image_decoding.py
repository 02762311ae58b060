"""Pictures from strangers: what is read, how it comes out, and what is refused before it takes memory."""

import random
import tracemalloc
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.images.pictures import chunk, gif, gradient, jpeg, noise, png, saved, webp

from puna.errors import InvalidOption
from puna.images.decode import decode, measured
from puna.images.header import MAX_PIXELS, MAX_SIDE, examine

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def pixels(content: bytes) -> NDArray[np.int32]:
    """Rows of columns of colours."""
    return np.asarray(decode(content), np.int32)


@pytest.mark.parametrize("format", FORMATS)
def test_headers_say_format_and_size(format: str) -> None:
    for size in ((1, 1), (37, 20), (300, 5)):
        header = examine(saved(gradient(*size), format))
        assert (header.format, header.width, header.height) == (format, *size)


@pytest.mark.parametrize(
    ("options", "format"),
    [
        ({"progressive": True}, "JPEG"),
        ({"exif": b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\0\0\0\0\0" + b"\0" * 5000}, "JPEG"),
        ({"lossless": True}, "WEBP"),
        ({"lossless": False, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}, "WEBP"),
    ],
)
def test_sizes_in_every_kind_of_header(options: dict[str, object], format: str) -> None:
    header = examine(saved(noise(1, 61, 43), format, **options))
    assert (header.width, header.height) == (61, 43)


@pytest.mark.parametrize(("format", "off"), [("PNG", 0), ("JPEG", 16), ("WEBP", 16)])
def test_pixels_come_out_as_they_are(format: str, off: int) -> None:
    image = gradient(64, 48)
    assert np.abs(pixels(saved(image, format)) - np.asarray(image, np.int32)).max() <= off


def test_grey_palettes_and_inks() -> None:
    grey = noise(1, 30, 20).convert("L")
    assert (pixels(saved(grey, "PNG"))[..., 1] == np.asarray(grey)).all()
    palette = noise(2, 30, 20).quantize(16)
    for format in ("PNG", "GIF"):
        assert (pixels(saved(palette, format)) == np.asarray(palette.convert("RGB"))).all()
    bits = noise(3, 30, 20).convert("1")
    assert set(np.unique(pixels(saved(bits, "PNG")))) == {0, 255}
    inks = gradient(32, 32).convert("CMYK")
    assert pixels(saved(inks, "JPEG")).shape == (32, 32, 3)


def test_sixteen_bits_are_shown_by_their_upper_eight() -> None:
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    found = pixels(saved(Image.fromarray(values), "PNG"))
    assert (found == (values >> 8)[..., None]).all()


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_what_is_transparent_shows_white(format: str) -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    image.paste((0, 0, 255, 128), (4, 0, 8, 4))
    found = pixels(saved(image, format, **({"lossless": True} if format == "WEBP" else {})))
    assert (found[0, 0] == 255).all() and found[7, 7].tolist() == [255, 0, 0]
    assert np.abs(found[0, 7] - [127, 127, 255]).max() <= 1


def test_transparency_of_palettes_and_of_grey() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert (pixels(saved(palette, "PNG", transparency=1)) == 255).all()
    grey = Image.new("LA", (4, 4), (0, 0))
    assert (pixels(saved(grey, "PNG")) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_says(orientation: int) -> None:
    image = gradient(64, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(saved(image, "JPEG", exif=exif, quality=95))
    assert found.shape[:2] == ((32, 64) if orientation < 5 else (64, 32))
    # Green grows downwards in the stored picture, red to the right.
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert found[corners[orientation]][:2].max() < 30


@pytest.mark.parametrize("orientation", [1, 3, 5, 8])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_measured_as_they_are_turned(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(gradient(64, 32), format, exif=exif)
    assert measured(content) == decode(content).size
    assert measured(saved(gradient(64, 32), format)) == (64, 32)


@pytest.mark.parametrize("content", [b"", b"no picture", png(0, 5), png(20_000, 5), jpeg(9000, 9000)])
def test_what_is_no_picture_is_not_measured(content: bytes) -> None:
    with pytest.raises(InvalidOption, match="invalid image: "):
        measured(content)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_many_frames_the_first_counts(format: str) -> None:
    frames = [Image.new("RGB", (16, 16), (255, 0, 0))]
    frames += [Image.new("RGB", (16, 16), (0, n % 256, n // 256)) for n in range(1000)]
    options = {"lossless": True} if format == "WEBP" else {}
    content = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert np.abs(pixels(content) - [255, 0, 0]).max() <= 1


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\0", b"AAAA", b"\xff\xd8\xff", b"RIFF", b"GIF89a", b"\x89PNG\r\n\x1a\n"),
        *(b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"MZ" + b"\0" * 100, b"<html>"),
        *(b"BM" + b"\0" * 100, b"II*\0" + b"\0" * 100, b"8BPS" + b"\0" * 100, b"%!PS-Adobe-3.0 EPSF-3.0"),
        *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x20ftypavif", b"P6 1 1 255 abc", b"icns" + b"\0" * 50),
        b"RIFF\x10\0\0\0WAVEfmt ",
    ],
)
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidOption, match=r"^invalid image: "):
        decode(content)


@pytest.mark.parametrize("format", ["BMP", "TIFF", "PPM", "PCX", "TGA", "ICO", "JPEG2000"])
def test_other_formats_that_pillow_knows_are_refused(format: str) -> None:
    with pytest.raises(InvalidOption, match="it is no PNG, JPEG, WebP or GIF"):
        decode(saved(noise(1, 16, 16), format))


@pytest.mark.parametrize(
    "content",
    [
        *(png(65535, 65535), png(2**31 - 1, 2**31 - 1), png(30000, 2000), png(10000, 10000)),
        *(jpeg(30000, 30000), jpeg(65500, 100), gif(65535, 65535), webp(16383, 16383), webp(2**24, 2**24)),
        *(png(0, 10), jpeg(0, 10), gif(0, 0), png(MAX_SIDE + 1, 1)),
    ],
)
def test_what_is_too_large_is_refused_before_it_takes_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidOption, match=r"are too many|has no size"):
            decode(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_largest_that_is_read() -> None:
    side = int(MAX_PIXELS**0.5)
    assert examine(png(side, side)).width == side
    with pytest.raises(InvalidOption, match="too many"):
        examine(png(side + 2, side + 2))


def test_compressed_texts_and_profiles_do_not_unfold() -> None:
    bomb = zlib.compress(b"A" * (200 << 20), 9)
    for name, content in (
        (b"zTXt", b"k\0\0" + bomb),
        (b"iCCP", b"k\0\0" + bomb),
        (b"iTXt", b"k\0\1\0\0\0" + bomb),
    ):
        tracemalloc.start()
        try:
            # Refused, or read without the text.
            decode(png(16, 16, chunk(name, content)))
        except InvalidOption as error:
            assert str(error).startswith("invalid image: ")
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 16 << 20


@pytest.mark.parametrize("format", FORMATS)
def test_every_beginning_is_read_or_refused(format: str) -> None:
    content = saved(gradient(24, 24), format)
    for end in range(len(content)):
        try:
            decode(content[:end])
        except InvalidOption as error:
            assert str(error).startswith("invalid image: ")


def _mutations(format: str, count: int) -> None:
    generator = random.Random(f"{format}{count}")
    content = saved(noise(1, 16, 16), format)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(generator.randint(1, 8)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        try:
            decode(bytes(changed))
        except InvalidOption as error:
            assert str(error).startswith("invalid image: ")


@pytest.mark.parametrize("format", FORMATS)
def test_changed_files_are_read_or_refused(format: str) -> None:
    _mutations(format, 300)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_many_changed_files_are_read_or_refused(format: str) -> None:
    _mutations(format, 25_000)


def test_headers_without_an_end_take_no_time() -> None:
    for content in (b"\xff\xd8\xff" + b"\xff" * 10**6, b"\xff\xd8\xff\xe0" + b"\0" * 10**6):
        with pytest.raises(InvalidOption, match="ends within its header"):
            examine(content)


def test_the_text_of_an_error_is_short() -> None:
    with pytest.raises(InvalidOption) as raised:
        decode(saved(noise(1, 64, 64), "JPEG")[:200])
    assert len(str(raised.value)) < 200
