"The explorer in a real browser: what is shown is what was computed, whatever the classes are called, and by keyboard."
import base64
import io
import re

import pytest
import torch
from PIL import Image

from sslnb.data import Images
from sslnb.evaluate import linear_probe
from sslnb.explorer import Explorer, explore

pytestmark = pytest.mark.slow

N, K = 40, 10
CLASSES = ['</script><script>document.title = "hacked"</script>', '"><img src=x onerror=alert(1)>', "Äpfel & яблоки",
           "$title"]
COLOURS = ["#00549b", "#ce6509", "#088a47", "#c16c9f", "#5d4d03", "#3a99de", "#7232c5", "#5e6266"]


def drawn(n, seed, name):
    "Flat images, each in a colour of its own; labels that have something to do with it."
    colours = torch.randint(256, (n, 3, 1, 1), generator=torch.Generator().manual_seed(seed)).byte()
    labels = (colours[:, 0, 0, 0] > 127).long() + 2 * (colours[:, 1, 0, 0] > 127).long()
    return Images.from_arrays(colours.expand(-1, -1, 16, 16), labels, CLASSES, name)


def colours_of(images): return images.pixels[:, :, 0, 0].float() / 255 - 0.5
def green(images): return colours_of(images) * torch.tensor([0.1, 1, 0.2])


ENCODERS = {"<b>colours</b>": colours_of, 'green"s': green}


@pytest.fixture(scope="module")
def made():
    def plain(x, start, how): return x[:, :2] + start.roll(1, 1)[:, :2]  # t-SNE takes longer, and is tested elsewhere
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sslnb.explorer.map_2d", plain)
        return explore(ENCODERS, drawn(N, 0, "flat & <i>"), drawn(60, 1, "others"), clusters=3)


@pytest.fixture(scope="module")
def opened(chromium, tmp_path_factory):
    "opened(explorer): its file in a window. It may not fail, fetch anything, or open anything."
    size, wrong = {"width": 1200, "height": 900}, []
    context = chromium.new_context(viewport=size, reduced_motion="reduce", offline=True)

    def opened(explorer):
        path, page = explorer.save(tmp_path_factory.mktemp("page") / "explorer.html"), context.new_page()
        page.on("request", lambda r: r.url in (path.as_uri(), "data:,") or wrong.append(r.url))
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("console", lambda m: "readback" in m.text or wrong.append(m.text))  # that is these tests' own
        page.on("dialog", lambda d: wrong.append(d.message) or d.dismiss())
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        return page
    yield opened
    context.close()
    assert not wrong


@pytest.fixture(scope="module")
def one_page(opened, made): return opened(made)


@pytest.fixture
def page(one_page):
    "The page of `made` as it is at first."
    one_page.mouse.move(0, 0)
    for select in ("#encoder", "#colouring"): one_page.select_option(select, index=0)
    one_page.evaluate("pin(-1); zoom(0)")
    return one_page


def at(page, i):
    "Where an image is in the window."
    x, y = page.evaluate(f"place({i})")
    box = page.locator("#plot").bounding_box()
    return box["x"] + x + 1, box["y"] + y + 1  # within its border


def pixel(page, canvas, x, y):
    "The colour at a place of a canvas, in CSS pixels."
    return page.evaluate("([c, x, y]) => [...document.querySelector(c).getContext('2d').getImageData(x, y, 1, 1).data]",
                         [canvas, int(x), int(y)])[:3]


def near(x, i):
    "The nearest by cosine, one by one."
    cosine = {j: float(x[i] @ x[j] / (x[i].norm() * x[j].norm())) for j in range(len(x)) if j != i}
    return sorted(cosine, key=cosine.get, reverse=True)[:K]


def shown_neighbours(page):
    return [int(b.get_attribute("data-image")) for b in page.locator("#near button").all()]


def close(a, b, tolerance=12): return max(abs(p - q) for p, q in zip(a, b)) <= tolerance


def test_pointing_at_a_point_shows_its_image_and_a_click_its_neighbours(page, made):
    images = made.images
    for i in (0, 17, N - 1):
        page.mouse.move(*at(page, i))
        assert page.locator(f"#now[data-image='{i}']").is_visible()
        assert close(pixel(page, "#big", 8, 8), images.pixels[i, :, 0, 0].tolist())
        said, guess = page.locator("#said").inner_text(), made.seen["<b>colours</b>"].predicted[i]
        assert CLASSES[images.labels[i]] in said and f"image {i}" in said
        assert f"predicted: {CLASSES[guess]} ({'right' if guess == images.labels[i] else 'wrong'})" in said
    for name, features in ENCODERS.items():
        page.select_option("#encoder", label=name)
        page.mouse.click(*at(page, 17))
        expected = near(features(images).double(), 17)
        assert shown_neighbours(page) == expected
        same = sum(images.labels[j] == images.labels[17] for j in expected)
        assert f"Of the same class: {same} of its {K} nearest" in page.locator("#count").inner_text()
        assert page.locator("#near button.same").count() == same
        assert close(pixel(page, "#near li:nth-child(4) canvas", 8, 8), images.pixels[expected[3], :, 0, 0].tolist())
    (x, y), (x2, y2) = (page.evaluate(f"place({i})") for i in (17, expected[-1]))
    line = "([x, y]) => document.querySelector('#marks').getContext('2d').getImageData(x, y, 12, 12).data.some(v => v)"
    assert page.evaluate(line, [(x + x2) / 2 - 6, (y + y2) / 2 - 6])
    page.locator("#near button").first.click()  # walks on
    assert shown_neighbours(page) == near(green(images).double(), expected[0])
    page.mouse.click(*(v + 3 for v in page.locator("#plot").bounding_box().values() if v < 400))  # an empty corner
    assert not page.locator("#pin").is_visible()


def test_colours_mean_what_is_chosen(page, made):
    seen, labels = made.seen["<b>colours</b>"], made.images.labels
    groups = {"class": labels, "cluster": seen.clusters, "right or wrong": (seen.predicted != labels).long()}
    others = drawn(60, 1, "others")
    probe = linear_probe(colours_of(others), others.labels, colours_of(made.images), n_classes=4)
    assert torch.equal(seen.predicted, probe.scores.argmax(1)) and 0 < groups["right or wrong"].sum() < N
    for name, group in groups.items():
        page.select_option("#colouring", name)
        page.evaluate("draw()")
        for i in range(0, N, 3):
            expected = [int(COLOURS[group[i]][k:k + 2], 16) for k in (1, 3, 5)]
            assert close(pixel(page, "#points", *page.evaluate(f"place({i})")), expected, 4), (name, i)
        counts = [int(re.match(r"\d+", t)[0]) for t in page.locator("#legend small").all_inner_texts()]
        assert counts == [n for n in group.bincount().tolist() if n]
    assert page.locator("#legend button").all_inner_texts()[0].startswith("right")
    page.locator("#legend button").nth(1).click()  # the wrong ones alone
    assert page.locator("#legend button[aria-pressed=true]").inner_text().startswith("wrong")
    right = int((groups["right or wrong"] == 0).nonzero()[0])
    page.mouse.move(*at(page, right))
    assert page.locator("#now").get_attribute("data-image") != str(right)


def test_points_move_to_where_another_encoder_has_them(page):
    change = "e => { $('encoder').selectedIndex = e; $('encoder').onchange(); return at; }"
    first, second = (page.evaluate(f"data.encoders[{e}].maps.tsne") for e in (0, 1))
    assert first != second and page.evaluate("at") == first
    assert page.evaluate(change, 1) == second  # at once, for those who want no motion
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(change, 0) == second
    page.wait_for_function("p => at.every((x, i) => x === p[i])", arg=first)
    page.emulate_media(reduced_motion="reduce")


def test_by_keyboard_one_walks_from_neighbour_to_neighbour(page, made):
    x = colours_of(made.images).double()
    page.locator("#plot").focus()
    page.keyboard.press("ArrowRight")
    assert shown_neighbours(page) == near(x, 0)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    second = near(x, 0)[1]
    assert page.locator("#now").get_attribute("data-image") == str(second)
    page.keyboard.press("Enter")
    assert shown_neighbours(page) == near(x, second)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.image") == str(near(x, second)[0])
    page.keyboard.press("Enter")
    assert shown_neighbours(page) == near(x, near(x, second)[0])
    page.keyboard.press("+")
    assert page.evaluate("view.scale") == 1.5
    page.keyboard.press("Escape")
    assert not page.locator("#pin").is_visible()


def test_names_are_text_wherever_they_come_from(page, made):
    assert page.title() == page.locator("h1").inner_text() == "40 images of flat & <i>, seen by 2 encoders"
    assert page.locator("#encoder option").all_inner_texts() == list(ENCODERS)
    assert [t.split("\n")[0] for t in page.locator("#legend button").all_inner_texts()] == CLASSES
    assert page.locator("h1 i, main img, main b, main script").count() == 0
    assert "http" not in re.sub("http-equiv", "", made.html())
    assert made.html() == made.html()


@pytest.mark.parametrize("theme, width", [("dark", 1200), ("light", 360)])
def test_axe_finds_nothing(page, axe, theme, width):
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("pin(3)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(f"html[data-theme={theme}]").wait_for(state="attached")  # the page hears of it in a while
    found = axe.run(page)
    assert not found.violations_count, found.generate_report()
    page.set_viewport_size({"width": 1200, "height": 900})


def test_in_a_notebook_it_has_a_frame_of_its_own_and_its_theme(opened, made):
    page = opened(made)
    page.goto("about:blank")
    style = "<style>p { color: red !important }</style>"
    page.set_content(f"{style}<body data-jp-theme-light=false>{made._repr_html_()}")
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready][data-theme=dark]").wait_for(state="attached")
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    frame.locator("html[data-theme=light]").wait_for(state="attached")
    assert frame.locator("#summary").evaluate("p => getComputedStyle(p).color") != "rgb(255, 0, 0)"
    assert page.evaluate("[typeof place, document.querySelectorAll('h1').length]") == ["undefined", 0]


def test_without_labels_there_are_clusters_and_neighbours(opened, made):
    grey = Images.from_arrays(made.images.pixels[:, :1], name="grey")
    seen = made.seen["<b>colours</b>"]._replace(predicted=None)
    page = opened(Explorer(grey, {"one": seen}, []))
    assert page.locator("#colouring option").all_inner_texts() == ["cluster"]
    page.mouse.click(*at(page, 5))
    assert "Its nearest neighbours" in page.locator("#count").inner_text()
    assert page.locator("#near button.same").count() == 0
    assert shown_neighbours(page) == seen.near[5].tolist() and page.locator("#map").is_hidden()


def test_a_thousand_images_of_photographs_are_below_two_megabytes(made):
    draw = torch.Generator().manual_seed(0)
    rough = torch.nn.functional.interpolate(torch.rand(1000, 3, 12, 12, generator=draw), 32, mode="bicubic")
    noisy = (255 * rough + 12 * torch.randn(1000, 3, 32, 32, generator=draw)).clamp(0, 255).byte()
    seen = made.seen["<b>colours</b>"]._replace(
        maps={"tsne": torch.randn(1000, 2)}, near=torch.randint(1000, (1000, 10)), clusters=torch.randint(10, (1000,)))
    page = Explorer(Images.from_arrays(noisy), dict.fromkeys("abc", seen), []).html()
    assert len(page) < 2e6
    sheet = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])))
    assert sheet.size == (1024, 1024)
