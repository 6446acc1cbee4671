"""``python -m services.gateway``."""

from framemesh.service import main
from services.gateway.gateway import Gateway

if __name__ == "__main__":
    main(Gateway)
