"""``python -m services.registrator``."""

from framemesh.service import main
from services.registrator.registrator import BasicEventRegistrator

if __name__ == "__main__":
    main(BasicEventRegistrator)
