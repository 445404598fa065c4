"""The words that the built-in tasks are made of.

They are common English words, so that most of them are one token in the byte-pair vocabularies of released models too.
A task keeps only those that are one token under the tokenizer at hand.
"""

from __future__ import annotations

NAMES = tuple(
    """Mary John Tom James Dan Sarah Anna Paul Mark David Kate Alice Bob Michael Peter Susan Laura Emma Jack Henry
    George Charles Robert William Richard Thomas Daniel Matthew Andrew Simon Steven Kevin Brian Jason Adam Ryan Eric
    Alex Luke Jane Helen Lisa Amy Rachel Jessica Emily Rose Martin""".split()
)

PLACES = tuple("""store park school office garden station hospital restaurant library beach market museum""".split())

OBJECTS = tuple("""drink book ring ball letter key gift bag map phone ticket camera""".split())

COUNTRIES: dict[str, tuple[str, str]] = {
    "France": ("Paris", "French"),
    "Germany": ("Berlin", "German"),
    "Spain": ("Madrid", "Spanish"),
    "Italy": ("Rome", "Italian"),
    "Russia": ("Moscow", "Russian"),
    "China": ("Beijing", "Chinese"),
    "Japan": ("Tokyo", "Japanese"),
    "Greece": ("Athens", "Greek"),
    "Portugal": ("Lisbon", "Portuguese"),
    "Poland": ("Warsaw", "Polish"),
    "Turkey": ("Ankara", "Turkish"),
    "Sweden": ("Stockholm", "Swedish"),
    "Norway": ("Oslo", "Norwegian"),
    "Denmark": ("Copenhagen", "Danish"),
    "Finland": ("Helsinki", "Finnish"),
    "Hungary": ("Budapest", "Hungarian"),
    "Netherlands": ("Amsterdam", "Dutch"),
    "Israel": ("Jerusalem", "Hebrew"),
    "Iran": ("Tehran", "Persian"),
    "Thailand": ("Bangkok", "Thai"),
    "Vietnam": ("Hanoi", "Vietnamese"),
    "Egypt": ("Cairo", "Arabic"),
    "England": ("London", "English"),
    "Bulgaria": ("Sofia", "Bulgarian"),
    "Romania": ("Bucharest", "Romanian"),
    "Serbia": ("Belgrade", "Serbian"),
    "Croatia": ("Zagreb", "Croatian"),
    "Korea": ("Seoul", "Korean"),
    "India": ("Delhi", "Hindi"),
    "Kenya": ("Nairobi", "Swahili"),
    "Cuba": ("Havana", "Spanish"),
    "Austria": ("Vienna", "German"),
}
"""Country to (capital, language)."""

COMMON = tuple(
    """river stone lamp table window horse apple cloud paper bridge candle mirror basket hammer island forest winter
    summer silver golden yellow purple orange button needle thread blanket pillow carpet ladder bottle kettle butter
    cheese honey pepper onion potato tomato lemon cherry peach pearl diamond copper iron marble wooden velvet cotton
    leather feather rabbit turtle monkey tiger eagle dragon spider engine rocket planet shadow thunder desert valley
    mountain ocean harbor castle tower palace temple village cabin tunnel doctor farmer sailor soldier painter
    dancer singer writer teacher lawyer banker baker""".split()
)
"""Unrelated nouns and adjectives, for sequences in which nothing but repetition predicts the next word."""
