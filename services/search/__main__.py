"""``python -m services.search``."""

from framemesh.service import main
from services.search.search import Search

if __name__ == "__main__":
    main(Search)
