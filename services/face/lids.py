"""Whether eyes are open, seen in the picture itself.

The landmarks do not follow a blink: through the one of the ``face`` clip the eye aspect ratio falls from 0.277 to
0.254 (a smile takes more), through the three of the ``carphone`` clip not at all. An open eye has upright edges,
those between iris and white; a closed one is a lying line of lashes. So the share of upright edges tells them
apart: by what it is in the open eye it falls to 0.24 to 0.48 in those four blinks, and stays above 0.64 elsewhere.
Light eyes were seen only as drawings.
"""

from __future__ import annotations

import cv2
import numpy as np

from framemesh.boxes import Floats, Image
from services.face.gaze import EYES

WIDTH, HEIGHT = 48, 40
HIGH = 1.7
"""Height of what is looked at, in eye radii; its width is that of the eye, 2."""
BORDER = WIDTH // 8


def upright_edges(image: Image, landmarks: Floats) -> float:
    """Upright edges by all edges inside the eyes, 0 to 1, the mean of both; squared gradients count."""
    return sum(_share(_grey(image, landmarks, eye)) for eye in EYES) / len(EYES)


def _grey(image: Image, landmarks: Floats, eye: tuple[int, int]) -> Image:
    """The eye, levelled: [40, 48] grey."""
    first, second = landmarks[eye[0]], landmarks[eye[1]]
    along = (second - first) / max(float(np.linalg.norm(second - first)), 1e-6)
    radius = max(float(np.linalg.norm(second - first)) / 2, 0.5)
    across = along * (2 * radius / WIDTH)
    down = np.array([-along[1], along[0]]) * (HIGH * radius / HEIGHT)
    corner = (first + second) / 2 - across * WIDTH / 2 - down * HEIGHT / 2
    crop = cv2.warpAffine(
        image,
        np.column_stack((across, down, corner)),
        (WIDTH, HEIGHT),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)


def _share(grey: Image) -> float:
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1)
    upright = (cv2.Sobel(smooth, cv2.CV_32F, 1, 0)[:, BORDER:-BORDER] ** 2).sum()
    lying = (cv2.Sobel(smooth, cv2.CV_32F, 0, 1)[:, BORDER:-BORDER] ** 2).sum()
    return float(upright / max(upright + lying, 1e-6))
