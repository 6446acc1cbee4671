"""Playlists (RFC 8216): what the muxer wrote is read, and the master playlist that names it is made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from framemesh.errors import FramemeshError
from services.media.ladder import Rendition

SEGMENT_S = 4.0
PLAYLIST, INIT, SEGMENTS = "index.m3u8", "init.mp4", "%05d.m4s"
_AAC = "mp4a.40.2"


@dataclass(frozen=True)
class Written:
    """A rendition that lies in a folder, with what its playlist comes to."""

    rendition: Rendition
    codecs: str
    peak_bps: int
    mean_bps: int
    segments: int
    seconds: float
    bytes: int


def look(folder: Path, rendition: Rendition) -> Written:
    """Look into a folder that the muxer has written. Raises FramemeshError where nothing is in it."""
    here = folder / rendition.name
    playlist = here / PLAYLIST
    lengths = re.findall(r"#EXTINF:([0-9.]+),.*\n(\S+)", playlist.read_text() if playlist.is_file() else "")
    if not lengths:
        raise FramemeshError(f"there is no {rendition.kind} in it that can be decoded")
    sizes = [(float(seconds), (here / name).stat().st_size) for seconds, name in lengths]
    seconds, size = sum(each for each, _ in sizes), sum(each for _, each in sizes)
    # What lasts next to nothing says nothing of a rate.
    peak = max((8 * size / max(lasts, 1.0) for lasts, size in sizes), default=0)
    return Written(
        rendition=rendition,
        codecs=_AAC if rendition.kind == "audio" else avc((here / INIT).read_bytes()),
        peak_bps=round(peak),
        mean_bps=round(8 * size / max(seconds, 0.1)),
        segments=len(sizes),
        seconds=round(seconds, 3),
        bytes=size + (here / INIT).stat().st_size,
    )


def avc(init: bytes) -> str:
    """The codec as players are told it (RFC 6381), by the configuration in an initialisation segment."""
    at = init.find(b"avcC")
    if at < 0:
        raise FramemeshError("the encoder wrote no H.264: set video_encoder to one that does")
    return f"avc1.{init[at + 5 : at + 8].hex().upper()}"


def master(written: Sequence[Written], folder: str) -> str:
    """The master playlist of renditions that lie under ``folder``, a path that is relative to it.

    Pictures and sound are apart, so that sound is stored once. Each rendition of sound can be played by itself.
    """
    sounds = [each for each in written if each.rendition.kind == "audio"]
    pictures = [each for each in written if each.rendition.kind == "video"]
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-INDEPENDENT-SEGMENTS"]
    if pictures and sounds:
        lines += [
            f'#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="sound",NAME="sound",DEFAULT=YES,AUTOSELECT=YES,CHANNELS="2",'
            f'URI="{folder}/{sounds[0].rendition.name}/{PLAYLIST}"'
        ]
    for each in pictures:
        lines += _variant(each, folder, sounds[0] if sounds else None)
    for each in sounds:
        lines += _variant(each, folder, None)
    return "\n".join(lines) + "\n"


def _variant(each: Written, folder: str, sound: Written | None) -> list[str]:
    rendition = each.rendition
    peak, mean, codecs = each.peak_bps, each.mean_bps, each.codecs
    if sound:
        peak, mean, codecs = peak + sound.peak_bps, mean + sound.mean_bps, f"{codecs},{sound.codecs}"
    said = [f"BANDWIDTH={peak}", f"AVERAGE-BANDWIDTH={mean}", f'CODECS="{codecs}"']
    if rendition.kind == "video":
        said += [f"RESOLUTION={rendition.width}x{rendition.height}", f"FRAME-RATE={rendition.fps:.3f}"]
    if sound:
        said.append('AUDIO="sound"')
    return [f"#EXT-X-STREAM-INF:{','.join(said)}", f"{folder}/{rendition.name}/{PLAYLIST}"]
