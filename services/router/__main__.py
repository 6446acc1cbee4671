"""``python -m services.router``."""

from framemesh.service import main
from services.router.router import Router

if __name__ == "__main__":
    main(Router)
