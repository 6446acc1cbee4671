"""In which order jobs came."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward; of the jobs that there are, the order of their states is the best that is known."""
    op.add_column("jobs", sa.Column("arrived", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE jobs SET arrived = seq")
    with op.batch_alter_table("jobs") as table:
        table.alter_column("arrived", server_default=None)
        table.drop_index("ix_jobs_status")
        table.create_index("ix_jobs_status", ["status", "rank", "arrived"])


def downgrade() -> None:
    """Go back."""
    with op.batch_alter_table("jobs") as table:
        table.drop_index("ix_jobs_status")
        table.create_index("ix_jobs_status", ["status", "rank", "created", "id"])
        table.drop_column("arrived")
