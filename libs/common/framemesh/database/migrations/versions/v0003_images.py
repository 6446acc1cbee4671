"""Pictures in collections, their thumbnails and statistics, and what services note for themselves."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward."""
    op.create_table(
        "collections",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
    )
    op.create_table(
        "statistics",
        sa.Column("collection", sa.String(64), sa.ForeignKey("collections.name"), primary_key=True),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("thumbnails", sa.Integer(), nullable=False),
        sa.Column("thumbnail_bytes", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.Float(53), nullable=False),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.String(24), primary_key=True),
        sa.Column("collection", sa.String(64), sa.ForeignKey("collections.name"), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("type", sa.String(8), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("animated", sa.Boolean(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("task", sa.String(255), nullable=False, unique=True),
        sa.Column("optimized", sa.Float(53)),
        sa.UniqueConstraint("collection", "name"),
    )
    op.create_index("ix_images_optimized", "images", ["optimized", "id"])
    op.create_table(
        "thumbnails",
        sa.Column("image", sa.String(24), sa.ForeignKey("images.id"), primary_key=True),
        sa.Column("size", sa.Integer(), primary_key=True),
        sa.Column("type", sa.String(8), primary_key=True),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
    )
    op.create_table(
        "marks",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("value", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    """Go back."""
    for table in ("marks", "thumbnails", "images", "statistics", "collections"):
        op.drop_table(table)
