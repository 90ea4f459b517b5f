"""The words of newswire: events, their facts, and the ways to tell them.

In a template `{fact}` stands for a fact and `[one|other|]` for a choice, the most usual first: how often each is drawn
is said in written.py. Nothing here needs "an": no place, number or thing after "a" begins with a vowel.
"""

from __future__ import annotations

from dataclasses import dataclass, field


def words(text: str) -> list[str]:
    """The words of a text, as a list."""
    return text.split()


_PLACES = words(
    "Bergen Bilbao Cairo Dakar Delft Dublin Geneva Hanoi Havana Kyoto Leeds Lima Lisbon Madrid Malmo "
    "Naples Perth Porto Prague Quito Riga Seville Sofia Tampa Tunis Turin Vienna Warsaw Zagreb Zurich"
)
_NUMBERS = [str(n) for n in range(20, 80)]
_THINGS = words("clinic factory hospital hotel library market museum school stadium station theatre warehouse")

_COMMON: dict[str, list[str]] = {
    "first": words(
        "Anna Bruno Carla Diego Elena Farid Greta Hugo Irene Jonas Karin Liam "
        "Mona Nils Olga Pavel Rosa Samir Tara Ulla Viktor Wanda Yusuf Zora"
    ),
    "last": words(
        "Adler Berg Costa Duval Evans Fischer Garcia Haas Ibsen Jansen Keller Lopez "
        "Moreau Novak Olsen Petrov Quist Rossi Silva Tanaka Ueda Vogel Weber Young"
    ),
    "place": _PLACES,
    "day": words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "n": _NUMBERS,
    "source": ["local radio", "local television", "the Courier", "the Gazette", "the Herald"],
}


FRAMES = [
    "{clause}",
    "{clause} on {day}",
    "according to {source}, {clause}",
    "{clause}, {source} [said|reported]",
    "on {day}, {clause}",
    "it was reported that {clause}",
    "{source} [said|reported] that {clause}",
    "{clause}, [according to {source}|reports say]",
]

SOURCINGS = [
    "The news was first reported by {source}, and local people talked about it all evening.",
    "The first to report it was {source}[, and little else was spoken of that day|].",
    "The story was first told by {source}, which expects a full report next week.",
    "{source} reported this and said that many people took photographs with their phones.",
    "The news came from {source}, while officials declined to give more details.",
    "{source} was first with the news and said that shops in the area stayed open as usual.",
]


@dataclass(frozen=True)
class Event:
    """A kind of story: the facts it has beside (or in place of) the common ones, and the ways it is told.

    A lead, a detail and a sourcing together tell all facts. A clause is what a summary says, inside a frame.
    """

    name: str
    facts: dict[str, list[str]]
    leads: list[str]
    details: list[str]
    remarks: list[str]
    clauses: list[str]
    common: dict[str, list[str]] = field(default_factory=lambda: _COMMON)
    frames: list[str] = field(default_factory=lambda: FRAMES)
    sourcings: list[str] = field(default_factory=lambda: SOURCINGS)

    @property
    def choices(self) -> dict[str, list[str]]:
        """Every fact with the values it can take."""
        return self.common | self.facts


EVENTS = [
    Event(
        name="opening",
        facts={"thing": _THINGS},
        leads=[
            "mayor {first} {last} [opened|launched|unveiled] a new {thing} in {place} on {day}.",
            "on {day}, a new {thing} was [opened|launched|unveiled] in {place} by mayor {first} {last}.",
            "the city of {place} has a new {thing}, which mayor {first} {last} [opened|unveiled] on {day}.",
        ],
        details=[
            "The project cost {n} million euros[, more than planned|, and the state paid half of it].",
            "About {n} million euros were spent on the project, the city said.",
        ],
        remarks=[
            "Children from a nearby school sang at the ceremony.",
            "The first visitors were waiting at the doors early in the morning.",
            "Work had begun three years ago and was delayed twice.",
        ],
        clauses=[
            "mayor [{last}|{first} {last}] [opened|launched|unveiled] a [new|{n} million euro] {thing} in {place}",
            "a [{n} million euro|new] {thing} was [opened|unveiled|launched] in {place} by mayor {last}",
            "a new {thing}, built for {n} million euros, opened in {place}",
            "{place} [got|gained|received] a {n} million euro {thing}",
            "the doors of a {n} million euro {thing} opened in {place}",
            "mayor [{last}|{first} {last}] was in {place} to [open|unveil] a {thing}",
        ],
    ),
    Event(
        name="purchase",
        facts={"thing": _THINGS, "seller": ["a bank", "a family", "a rival", "the city", "the state"]},
        leads=[
            "investor {first} {last} [bought|acquired|purchased] the old {thing} in {place} from {seller} on {day}.",
            "the old {thing} in {place} was [bought|acquired] by investor {first} {last} from {seller} on {day}.",
            "on {day}, investor {first} {last} [bought|acquired|purchased] the old {thing} of {place} from {seller}.",
        ],
        details=[
            "The price was {n} million euros[, less than expected|, paid at once].",
            "The deal is worth {n} million euros, [people close to it|two lawyers] said.",
        ],
        remarks=[
            "The new owner wants to keep all of the staff.",
            "The building had been empty for a long time.",
            "Neighbours hope that the roof will be repaired soon.",
        ],
        clauses=[
            "investor [{last}|{first} {last}] [bought|acquired] the {place} {thing} "
            "[for {n} million euros|from {seller}]",
            "the [old |]{thing} in {place} [was sold|changed hands|went] for {n} million euros",
            "{seller} sold the [{place} {thing}|old {thing} in {place}] to [investor {last}|{first} {last}]",
            "the {place} {thing} was [bought|acquired|purchased] [by investor {last}|from {seller}]",
            "{seller} [got|received] {n} million euros for the {place} {thing}",
            "a {n} million euro deal made {last} owner of the {place} {thing}",
        ],
    ),
    Event(
        name="accident",
        facts={
            "vehicle": ["bus", "lorry", "taxi", "train", "tram", "van"],
            "thing": _THINGS,
            "cause": ["faulty brakes", "heavy rain", "ice", "strong wind", "thick fog"],
        },
        leads=[
            "a {vehicle} [crashed|slammed|drove] into a {thing} in {place} on {day} because of {cause}.",
            "on {day}, a {thing} in {place} was [hit|struck|rammed] by a {vehicle} because of {cause}.",
            "because of {cause}, a {vehicle} [crashed|slammed|drove] into a {thing} in {place} on {day}.",
        ],
        details=[
            "[The driver|Doctor] {first} {last} said that {n} people were [injured|hurt].",
            "There were {n} [people injured|injuries], [officer|doctor] {first} {last} [told reporters|said].",
        ],
        remarks=[
            "The road was closed until the evening.",
            "Police asked people to stay away from the area.",
            "The front of the building was badly damaged.",
        ],
        clauses=[
            "a {vehicle} [crashed|slammed|drove] into a {thing} in {place}[, hurting {n} people| because of {cause}|]",
            "{n} people were [injured|hurt] when a {vehicle} [hit|struck|rammed] a {place} {thing}",
            "a {place} {thing} was [hit|struck|rammed] by a {vehicle}[| because of {cause}]",
            "{cause} [sent|drove] a {vehicle} into a {place} {thing}",
            "a {vehicle} [accident|crash] left {n} people [injured|hurt] in {place}",
            "{cause} [caused|led to] a {vehicle} [accident|crash] at a {place} {thing}",
        ],
    ),
    Event(
        name="award",
        facts={
            "role": ["architect", "chemist", "dancer", "painter", "singer", "writer"],
            "prize": ["Bronze Owl", "Crystal Rose", "Golden Harp", "Laurel Crown", "Silver Star"],
        },
        leads=[
            "{role} {first} {last} [won|received|was given] the {prize} prize in {place} on {day}.",
            "on {day}, the {prize} prize was [presented|awarded|given] to {role} {first} {last} in {place}.",
            "the {prize} prize was [presented|awarded|given] in {place} on {day} to {role} {first} {last}.",
        ],
        details=[
            "The prize is worth {n} thousand euros[, twice as much as last year|].",
            "It comes with {n} thousand euros[ and a year of travel|].",
        ],
        remarks=[
            "The jury praised a lifetime of patient work.",
            "The audience stood and clapped for several minutes.",
            "The winner thanked parents, teachers and friends.",
        ],
        clauses=[
            "{role} [{last}|{first} {last}] [won|received|was given|collected] the {prize} prize[ in {place}|]",
            "the {prize} prize [went|was awarded|was presented|was given] to {role} [{last}|{first} {last}]",
            "a prize of {n} thousand euros [went|was awarded|was given] to {last} in {place}",
            "{first} {last} [won|took|received] {n} thousand euros and the {prize} prize",
            "the {prize} prize in {place} was won by [{role} {last}|{first} {last}]",
            "in {place}, {role} {last} was honoured with the {prize} prize",
        ],
    ),
    Event(
        name="election",
        facts={
            "n": _NUMBERS[31:],
            "office": ["governor", "judge", "sheriff", "treasurer"],
            "promise": ["better schools", "cheaper buses", "cleaner air", "lower rents", "safer streets"],
        },
        leads=[
            "voters in {place} [chose|elected|picked] {first} {last} as their new {office} on {day}.",
            "on {day}, {first} {last} was [chosen|elected|picked] as the new {office} of {place}.",
            "the people of {place} [chose|elected|picked] {first} {last} as {office} on {day}.",
        ],
        details=[
            "{last}, who [promised|pledged] {promise}, [won|got|received] {n} percent of the vote.",
            "With {n} percent of the vote, {last} [promised|pledged] {promise}.",
        ],
        remarks=[
            "The count went on until late at night and was calm.",
            "The loser called late at night to offer congratulations.",
            "It was the first vote of this kind in four years.",
        ],
        clauses=[
            "[voters in |the people of |]{place} [elected|chose|picked] [{last}|{first} {last}] as [|new ]{office}",
            "[{last}|{first} {last}] was [elected|chosen|picked] as {office} of {place}[| with {n} percent]",
            "{last}, who [promised|pledged] {promise}, [became|was elected] {office} of {place}",
            "the race for {office} in {place} was won by [{last}|{first} {last}]",
            "{n} percent of the vote in {place} [went to|was for] [{last}|{first} {last}]",
            "a candidate who [promised|pledged] {promise}, {last}, won in {place}",
        ],
    ),
    Event(
        name="match",
        facts={"n": _NUMBERS[:20], "rival": _PLACES, "sport": ["basketball", "handball", "rugby", "volleyball"]},
        leads=[
            "the {sport} team of {place} [beat|defeated|outplayed] {rival} by {n} points on {day}.",
            "on {day}, {rival} was [beaten|defeated|outplayed] by the {sport} team of {place} by {n} points.",
            "the {place} {sport} team [beat|defeated|outplayed] {rival} on {day}, winning by {n} points.",
        ],
        details=[
            "Captain {first} {last} was the [best|top] scorer[ for the third time|].",
            "The [best|top] scorer was captain {first} {last}[, back after an injury|].",
        ],
        remarks=[
            "The fans sang and danced long after the end.",
            "The coach spoke of a perfect evening for the club.",
            "The two sides will meet again next month.",
        ],
        clauses=[
            "the {place} {sport} team [beat|defeated|outplayed] {rival}[ by {n} points|]",
            "{rival} [lost to|was beaten by|was defeated by] {place} [by {n} points|in {sport}]",
            "captain {last} led {place} to a [{n} point|{sport}] [win|victory] over {rival}",
            "{place} [won|took] the {sport} match against {rival}",
            "the [top|best] scorer as {place} [beat|defeated] {rival} was [captain {last}|{first} {last}]",
            "a {n} point [win|victory] in {sport} over {rival} went to {place}",
        ],
    ),
    Event(
        name="fire",
        facts={"thing": _THINGS, "cause": ["a candle", "a gas leak", "an old heater", "fireworks", "lightning"]},
        leads=[
            "a fire [damaged|hit|struck] a {thing} in {place} on {day}, and {n} people [fled|escaped].",
            "on {day}, a {thing} in {place} was [damaged|hit] by a fire, and {n} people [fled|escaped].",
            "{n} people [fled|escaped] as a {thing} [burned|caught fire] in {place} on {day}.",
        ],
        details=[
            "The fire was [caused|started] by {cause}, fire chief {first} {last} said.",
            "Fire chief {first} {last} said that {cause} [had caused|had started] the fire.",
        ],
        remarks=[
            "Smoke could be seen from far away for hours.",
            "Nobody was seriously hurt in the fire.",
            "Crews from three towns fought the flames.",
        ],
        clauses=[
            "a fire [caused|started] by {cause} [damaged|hit|struck] a [{thing} in {place}|{place} {thing}]",
            "{n} people [fled|escaped] [a fire at a|a burning] {thing} in {place}",
            "{cause} [caused|started] [a|the] fire at a {place} {thing}",
            "a {place} {thing} [burned|caught fire|was damaged by flames] because of {cause}",
            "fire chief {last} blamed {cause} for [a|the] fire in {place}",
            "flames [drove|chased] {n} people from a {place} {thing}",
        ],
    ),
    Event(
        name="theft",
        facts={"thing": _THINGS, "loot": ["clocks", "coins", "jewels", "paintings", "violins"]},
        leads=[
            "thieves [stole|took|grabbed] {loot} worth {n} thousand euros from a {thing} in {place} on {day}.",
            "on {day}, {loot} worth {n} thousand euros were [stolen|taken] from a {thing} in {place}.",
            "a {thing} in {place} was robbed on {day} of {loot} worth {n} thousand euros.",
        ],
        details=[
            "Inspector {first} {last} [is looking|is asking] for witnesses.",
            "The search is led by inspector {first} {last}[, a veteran of such cases|].",
        ],
        remarks=[
            "The alarm had been switched off the night before.",
            "The thieves came through a small window.",
            "A guard noticed the loss in the morning.",
        ],
        clauses=[
            "thieves [stole|took|grabbed] {loot} [from a {thing} in {place}|worth {n} thousand euros in {place}]",
            "{loot} [worth {n} thousand euros |]were [stolen|taken|grabbed] from a {place} {thing}",
            "a {place} {thing} [was robbed of|lost] {n} thousand euros worth of {loot}",
            "thieves [got away|escaped|fled] with {loot} from a {place} {thing}",
            "{loot} now [sought|wanted] by inspector {last} disappeared from a {place} {thing}",
            "a {n} thousand euro theft of {loot} [hit|struck] a {place} {thing}",
        ],
    ),
]
