"""The bundled shop: a year of a British gift shop's invoices, in the wheel, for the demo and for tests.

Online Retail (Daqing Chen, 2015), UCI Machine Learning Repository; trainer/data/README.md has credit and licence.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from trainer.cleaning import NON_PRODUCTS, Cleaning
from trainer.events import EventColumns

_NON_PRODUCTS = rf"{NON_PRODUCTS}|M|D|S|C2|B|CRUK|gift_.*|23444|23702"
"""Beside the fees of any shop: manual entries, discounts, samples, carriage, bad debt, a charity's commission, gift
vouchers, next day carriage (23444) and image rights (23702)."""


@dataclass(frozen=True)
class BundledShop:
    """Where the events are, how their columns are called, how they are cleaned, and which column holds titles."""

    events: Path
    columns: EventColumns
    cleaning: Cleaning
    title_column: str


def bundled_shop() -> BundledShop:
    """The shop, as `nearcart demo` trains on it: 541,909 rows of 4,372 customers and 4,070 products."""
    return BundledShop(
        events=Path(str(resources.files("trainer") / "data" / "online_retail.parquet")),
        columns=EventColumns(
            user="CustomerID",
            item="StockCode",
            timestamp="InvoiceDate",
            quantity="Quantity",
            price="UnitPrice",
            basket="InvoiceNo",
        ),
        cleaning=Cleaning(non_product_pattern=_NON_PRODUCTS),
        title_column="Description",
    )
