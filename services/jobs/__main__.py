"""``python -m services.jobs``."""

from framemesh.service import main
from services.jobs.jobs import JobsService

if __name__ == "__main__":
    main(JobsService)
