"Packaging reads version and requirements from settings.ini, so that they are written once."
from configparser import ConfigParser
from setuptools import setup

config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
s = config["DEFAULT"]

setup(
    version=s["version"],
    description=s["description"],
    python_requires=f">={s['min_python']}",
    install_requires=s["requirements"].split(),
    extras_require={key.removesuffix("_requirements"): s[key].split() for key in s if key.endswith("_requirements")},
)
