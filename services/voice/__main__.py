"""``python -m services.voice``."""

from framemesh.service import main
from services.voice.worker import VoiceInference

if __name__ == "__main__":
    main(VoiceInference)
