"""The import graph has no circles."""

import grimp
import networkx
import pytest


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """The sets of modules that import each other, by whatever way; imports inside functions count."""
    graph = networkx.DiGraph((importer, imported) for importer in imports for imported in imports[importer])
    return sorted((part for part in networkx.strongly_connected_components(graph) if len(part) > 1), key=sorted)


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    graph = grimp.build_graph("lpgpu", cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [{"a", "b", "c"}]


def test_there_is_no_circle(imports: dict[str, set[str]]) -> None:
    assert len(imports) > 50
    assert not circles(imports)
