"""What waits for its owner's other jobs, and indexes for what is asked every few seconds."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward; which jobs were parked, their documents say."""
    op.add_column("jobs", sa.Column("parked", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("UPDATE jobs SET parked = true WHERE status = 'queued' AND document LIKE '%\"parked\"_true%'")
    op.drop_index("ix_jobs_status", "jobs")
    op.create_index("ix_jobs_status", "jobs", ["status", "parent", "created", "id"])
    op.create_index("ix_jobs_queue", "jobs", ["status", "parent", "rank", "arrived"])
    op.create_index("ix_jobs_share", "jobs", ["status", "parent", "owner", "rank", "parked", "id"])
    op.create_index("ix_jobs_ended", "jobs", ["put_away", "ended"])
    op.create_index("ix_jobs_seq", "jobs", ["seq"])


def downgrade() -> None:
    """Go back."""
    for name in ("status", "queue", "share", "ended", "seq"):
        op.drop_index(f"ix_jobs_{name}", "jobs")
    op.create_index("ix_jobs_status", "jobs", ["status", "rank", "arrived"])
    op.drop_column("jobs", "parked")
