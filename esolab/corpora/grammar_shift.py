"""The words of newswire_shift: the events of newswire with other names, places, things and sources, told in other ways.

Days, numbers, everyday words and about half of the other facts (causes, sports, ...) stay. Templates are as in
grammar.py; nothing needs "an" here either.
"""

from __future__ import annotations

from functools import partial

from esolab.corpora.grammar import Event, words

_PLACES = words(
    "Bremen Chester Durban Florence Ghent Hamburg Jakarta Kampala Lagos Lyon Manila Nairobi Oxford Panama Rabat "
    "Salerno Toledo Utrecht Valencia Wexford"
)
_NUMBERS = [str(n) for n in range(20, 80)]
_THINGS = words("bakery bridge cinema college garage gym harbour mill palace prison tower zoo")

_COMMON: dict[str, list[str]] = {
    "first": words(
        "Bela Boris Clara Dora Emil Felix Gloria Henry Ivan Julia Kofi Laura "
        "Martin Nadia Paula Ralph Stella Tomas Vera Walter Xenia Yara Zeno"
    ),
    "last": words(
        "Bauer Carter Dixon Engel Foster Grant Huber Jensen Kumar Lang "
        "Mendez Nolan Parker Quinn Ramos Schmidt Turner Vargas Wagner Zimmer"
    ),
    "place": _PLACES,
    "day": words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "n": _NUMBERS,
    "source": ["the Mirror", "the Post", "the Tribune", "national radio", "national television"],
}

FRAMES = [
    "{clause}",
    "{clause}, according to {source}",
    "{source} [reported|said] that {clause}",
    "{clause} on {day}, {source} said",
    "reports say that {clause}",
    "on {day}, it was reported that {clause}",
]

SOURCINGS = [
    "{source} reported the news first, and many people talked about it.",
    "The first report of this came from {source}.",
    "Officials declined to give details, said {source}, which told the story first.",
]

_event = partial(Event, common=_COMMON, frames=FRAMES, sourcings=SOURCINGS)

EVENTS = [
    _event(
        name="opening",
        facts={"thing": _THINGS},
        leads=[
            "in {place}, mayor {first} {last} was at the doors of a new {thing} on {day} to open it.",
            "a new {thing} opened in {place} on {day}, and mayor {first} {last} was the first to visit it.",
        ],
        details=["The {thing} cost the city {n} million euros.", "The city paid {n} million euros for it."],
        remarks=["A school sang at the doors.", "The work was delayed by a year."],
        clauses=[
            "a new {thing} opened in {place}",
            "mayor [{last}|{first} {last}] opened the new {thing} [in|of] {place}",
            "the new {thing} in {place} cost {n} million euros",
            "in {place}, a {n} million euro {thing} was opened by mayor {last}",
            "{place} has a new {thing}, built for {n} million euros",
        ],
    ),
    _event(
        name="purchase",
        facts={"thing": _THINGS, "seller": ["a club", "a widow", "the church", "the railway"]},
        leads=[
            "{seller} sold the old {thing} in {place} on {day}, and investor {first} {last} bought it.",
            "the {thing} in {place} has a new owner: investor {first} {last} bought it from {seller} on {day}.",
        ],
        details=["The new owner paid {n} million euros.", "It was sold for {n} million euros."],
        remarks=["The staff of the {thing} will stay.", "People had hoped for more."],
        clauses=[
            "investor {first} {last} [bought|is the new owner of] the {thing} in {place}",
            "{seller} sold the old {thing} in {place} for {n} million euros",
            "the {place} {thing} was sold to investor {last}",
            "investor {last} paid {n} million euros for the {place} {thing}",
            "{seller} sold the {place} {thing}",
        ],
    ),
    _event(
        name="accident",
        facts={
            "vehicle": ["bus", "tanker", "tractor", "van"],
            "thing": _THINGS,
            "cause": ["a flat tyre", "deep snow", "heavy rain", "thick fog"],
        },
        leads=[
            "{cause} caused a crash in {place} on {day}, when a {vehicle} hit the {thing}.",
            "the {thing} in {place} was hit on {day} when {cause} sent a {vehicle} into it.",
        ],
        details=[
            "Doctor {first} {last} said that there were {n} injuries.",
            "Officer {first} {last} told reporters of {n} injured people.",
        ],
        remarks=["The building was closed.", "The road was badly damaged."],
        clauses=[
            "a {vehicle} hit the {thing} in {place}",
            "a {vehicle} [accident|crash] at the {place} {thing} was caused by {cause}",
            "{n} people were [injured|hurt] by a {vehicle} in {place}",
            "because of {cause}, a {vehicle} hit a {thing}[ in {place}|]",
            "the crash of a {vehicle} in {place} left {n} people injured",
        ],
    ),
    _event(
        name="award",
        facts={
            "role": ["composer", "gardener", "painter", "singer"],
            "prize": ["Copper Leaf", "Golden Lion", "Silver Mask", "White Tower"],
        },
        leads=[
            "the jury in {place} awarded the {prize} prize to {role} {first} {last} on {day}.",
            "{role} {first} {last} was in {place} on {day} and was presented with the {prize} prize.",
        ],
        details=["The winner received {n} thousand euros.", "A year of travel and {n} thousand euros come with it."],
        remarks=["The audience sang.", "It was the first prize for the winner."],
        clauses=[
            "{role} {first} {last} won the {prize} prize",
            "the {prize} prize was awarded to {role} {last}[ in {place}|]",
            "in {place}, {role} {last} received {n} thousand euros",
            "the {prize} prize went to {first} {last}",
            "{last} was presented with the {prize} prize in {place}",
        ],
    ),
    _event(
        name="election",
        facts={
            "n": _NUMBERS[31:],
            "office": ["deputy", "governor", "judge", "senator"],
            "promise": ["cheaper buses", "fewer taxes", "lower rents", "new jobs"],
        },
        leads=[
            "the race for {office} in {place} was won by {first} {last} on {day}.",
            "{place} has a new {office}: the people elected {first} {last} on {day}.",
        ],
        details=[
            "{n} percent of the vote went to {last}, who promised {promise}.",
            "The new {office} promised {promise} and received {n} percent.",
        ],
        remarks=["The count was calm.", "The loser was not at the count."],
        clauses=[
            "{first} {last} [was elected as|is] the new {office} of {place}",
            "the people of {place} elected {last}[ as {office}|, who promised {promise}]",
            "{last} won {n} percent of the vote in {place}",
            "the new {office} of {place}, {last}, promised {promise}",
            "the vote in {place} was won by {first} {last} with {n} percent",
        ],
    ),
    _event(
        name="match",
        facts={"rival": _PLACES, "sport": ["hockey", "rugby", "tennis", "volleyball"]},
        leads=[
            "{place} won the {sport} match against {rival} by {n} points on {day}.",
            "{rival} lost the {sport} match against {place} by {n} points on {day}.",
        ],
        details=["Captain {first} {last} was the top scorer.", "The best scorer of all was captain {first} {last}."],
        remarks=["The fans of both clubs danced.", "It was a perfect evening for the fans."],
        clauses=[
            "{place} [beat|defeated] {rival} by {n} points",
            "{rival} lost the {sport} match against {place}",
            "{place} beat {rival} in {sport}",
            "captain {last} and {place} won the {sport} match against {rival}",
            "the {sport} team of {place} won by {n} points",
        ],
    ),
    _event(
        name="fire",
        facts={"thing": _THINGS, "cause": ["a candle", "a toaster", "dry leaves", "lightning"]},
        leads=[
            "flames were seen at the {thing} in {place} on {day}, and {n} people fled.",
            "{n} people escaped from a burning {thing} in {place} on {day}.",
        ],
        details=[
            "Fire chief {first} {last} blamed {cause}.",
            "It was {cause} that caused the flames, said fire chief {first} {last}.",
        ],
        remarks=["Crews fought the fire until the morning.", "Nobody was hurt."],
        clauses=[
            "a fire hit the {thing} in {place}",
            "{n} people escaped from [a burning|the] {thing} in {place}",
            "a fire at the {place} {thing} was caused by {cause}",
            "fire chief {last} said that {cause} caused a fire in {place}",
            "the {place} {thing} burned, and {n} people fled",
        ],
    ),
    _event(
        name="theft",
        facts={"thing": _THINGS, "loot": ["coins", "diamonds", "paintings", "statues", "watches"]},
        leads=[
            "the {thing} in {place} lost {loot} worth {n} thousand euros to thieves on {day}.",
            "{loot} disappeared from the {thing} in {place} on {day}; they are worth {n} thousand euros.",
        ],
        details=["Inspector {first} {last} leads the search.", "The case is that of inspector {first} {last}."],
        remarks=["The guard noticed it late at night.", "A small window was open."],
        clauses=[
            "thieves took {loot} from the {thing} in {place}",
            "{loot} worth {n} thousand euros disappeared in {place}",
            "the {place} {thing} lost {loot} to thieves",
            "inspector {last} sought {loot} from the {place} {thing}",
            "thieves fled from {place} with {loot} worth {n} thousand euros",
        ],
    ),
]
