# Installing: headers, both libraries, and what finds them again. cli/ installs the command.
# `find_package(mlxq)` gives mlxq::mlxq, the shared library; with COMPONENTS static also mlxq::mlxq_static.
# `pkg-config mlxq` gives the shared one; with --static what the static one needs too.

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/mlxq)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/mlxq DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
# Two export sets: users of the shared library do not need json-c.
install(TARGETS mlxq EXPORT mlxqTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS mlxq_static EXPORT mlxqStaticTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT mlxqTargets NAMESPACE mlxq:: DESTINATION ${package_folder})
install(EXPORT mlxqStaticTargets NAMESPACE mlxq:: DESTINATION ${package_folder})

install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

configure_package_config_file(cmake/mlxqConfig.cmake.in ${PROJECT_BINARY_DIR}/mlxqConfig.cmake
  INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/mlxqConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/mlxqConfig.cmake ${PROJECT_BINARY_DIR}/mlxqConfigVersion.cmake
  DESTINATION ${package_folder})

# The .pc file finds the prefix from its own place, so that `cmake --install --prefix` and moved folders work.
set(pc_folder ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  set(MLXQ_PC_PREFIX ${CMAKE_INSTALL_PREFIX})
  set(MLXQ_PC_LIBDIR ${CMAKE_INSTALL_LIBDIR})
else()
  file(RELATIVE_PATH to_prefix /prefix/${pc_folder} /prefix)
  string(REGEX REPLACE "/$" "" to_prefix ${to_prefix})
  set(MLXQ_PC_PREFIX "\${pcfiledir}/${to_prefix}")
  set(MLXQ_PC_LIBDIR "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
endif()
if(IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(MLXQ_PC_INCLUDEDIR ${CMAKE_INSTALL_INCLUDEDIR})
else()
  set(MLXQ_PC_INCLUDEDIR "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file(cmake/mlxq.pc.in ${PROJECT_BINARY_DIR}/mlxq.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/mlxq.pc DESTINATION ${pc_folder})
