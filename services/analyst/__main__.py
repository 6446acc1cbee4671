"""``python -m services.analyst``."""

from framemesh.service import main
from services.analyst.analyst import Analyst

if __name__ == "__main__":
    main(Analyst)
