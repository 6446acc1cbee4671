"""``python -m services.transcribe``."""

from framemesh.service import main
from services.transcribe.worker import TranscribeInference

if __name__ == "__main__":
    main(TranscribeInference)
