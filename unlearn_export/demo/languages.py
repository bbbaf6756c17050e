"""What the demo's concepts are called elsewhere: German, Spanish, French, Russian, Chinese."""

from collections.abc import Mapping

TRANSLATIONS: Mapping[str, tuple[str, ...]] = {
    "pizza": ("Pizza", "pizza", "pizza", "пицца", "披萨"),
    "hamburger": ("Frikadelle", "hamburguesa", "steak haché", "гамбургер", "汉堡包"),
    "banana": ("Banane", "plátano", "banane", "банан", "香蕉"),
    "strawberry": ("Erdbeere", "fresa", "fraise", "клубника", "草莓"),
    "carrot": ("Karotte", "zanahoria", "carotte", "морковь", "胡萝卜"),
    "cat": ("Katze", "gato", "chat", "кошка", "猫"),
    "frog": ("Frosch", "rana", "grenouille", "лягушка", "青蛙"),
    "penguin": ("Pinguin", "pingüino", "manchot", "пингвин", "企鹅"),
    "butterfly": ("Schmetterling", "mariposa", "papillon", "бабочка", "蝴蝶"),
    "octopus": ("Krake", "pulpo", "pieuvre", "осьминог", "章鱼"),
    "guitar": ("Gitarre", "guitarra", "guitare", "гитара", "吉他"),
    "car": ("Auto", "coche", "voiture", "автомобиль", "汽车"),
    "umbrella": ("Regenschirm", "paraguas", "parapluie", "зонт", "雨伞"),
    "rocket": ("Rakete", "cohete", "fusée", "ракета", "火箭"),
    "key": ("Schlüssel", "llave", "clé", "ключ", "钥匙"),
    "ghost": ("Gespenst", "fantasma", "fantôme", "привидение", "鬼"),
    "robot": ("Roboter", "robot", "robot", "робот", "机器人"),
    "clown": ("Clown", "payaso", "clown", "клоун", "小丑"),
    "alien": ("Außerirdischer", "extraterrestre", "extraterrestre", "инопланетянин", "外星人"),
    "snowman": ("Schneemann", "muñeco de nieve", "bonhomme de neige", "снеговик", "雪人"),
    "santa claus": ("Weihnachtsmann", "papá noel", "père noël", "дед мороз", "圣诞老人"),
    "baby": ("Säugling", "bebé", "bébé", "младенец", "婴儿"),
    "princess": ("Prinzessin", "princesa", "princesse", "принцесса", "公主"),
    "police officer": ("Polizist", "policía", "policier", "полицейский", "警察"),
    "old man": ("alter Mann", "anciano", "vieil homme", "старик", "老人"),
}
