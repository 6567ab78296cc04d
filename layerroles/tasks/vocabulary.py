"""Lists of plain English words from which generated questions are made."""

NAMES = tuple(
    """Alice Ben Carl Diana Emma Frank Grace Henry Jack Julia Kate Leo Lucy Mark Mary Nick Nora
    Oscar Paul Peter Rose Ruth Sam Sarah Tom Will""".split()
)

# Things that are counted, in the plural.
THINGS = tuple(
    """apples balls bananas beads books bottles boxes buttons candles cards carrots coins cookies
    cups dolls eggs flowers hats keys kites lemons marbles muffins onions oranges pears pencils pens
    plates potatoes rings shells shirts stamps stickers stones tickets tomatoes toys""".split()
)

PLACES = tuple(
    """attic barn basement garage garden hall kitchen library market museum office park school shed
    shop station store tent village yard""".split()
)

# Short nouns, none of which is the beginning of another.
NOUNS = tuple(
    """arrow autumn basket beach bell bird bottle branch bread bridge bucket button cabin camera
    candle castle chair cheese church circle clock cloud coffee cotton cousin crown desert diamond
    dinner doctor dragon dress drum eagle engine feather fence finger flag flower forest garden
    ghost giant glass gold grass guitar hammer harbor heart hill honey horse hotel island jacket
    jewel jungle kitchen ladder lake lamp leaf lemon letter lion market mask meadow milk mirror
    money monkey mother mountain mouse needle nest ocean onion orange palace paper parrot pencil
    piano pilot planet pocket pond potato queen rabbit rain river road rocket roof rope salt sand
    school shadow sheep ship shirt shoe silver sister snake snow soap soldier spider spoon star
    stone storm sugar summer table teacher temple tiger tower train tree tunnel turtle uncle valley
    village violin wagon water whale wheel window winter wolf yard zebra""".split()
)
