"""``python -m services.classification``."""

from framemesh.service import main
from services.classification.worker import ClassificationInference

if __name__ == "__main__":
    main(ClassificationInference)
