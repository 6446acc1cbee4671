"""``python -m services.reader``."""

from framemesh.service import main
from services.reader.reader import Reader

if __name__ == "__main__":
    main(Reader)
