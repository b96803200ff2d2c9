# What makes an overflow that all tests have missed end in an abort. Each flag is used where compiler and linker have it,
# so that other systems build too; tests/install/hardening.sh proves what came of it where it is to be had.
include(CheckCSourceCompiles)
include(CheckCCompilerFlag)
include(CheckLinkerFlag)
include(CheckPIESupported)

check_pie_supported(LANGUAGES C) # with CMAKE_POSITION_INDEPENDENT_CODE executables are linked so, too

set(CMAKE_REQUIRED_FLAGS -Werror)
foreach(flag -fstack-protector-strong -fstack-clash-protection)
  string(MAKE_C_IDENTIFIER "MLXQ_HAS${flag}" has)
  check_c_compiler_flag(${flag} ${has})
  if(${has})
    add_compile_options(${flag})
  endif()
endforeach()
foreach(flag relro now noexecstack)
  check_linker_flag(C "LINKER:-z,${flag}" MLXQ_HAS_z_${flag})
  if(MLXQ_HAS_z_${flag})
    add_link_options("LINKER:-z,${flag}")
  endif()
endforeach()

# Works in optimised builds alone. A C library that knows no level 3 warns.
set(CMAKE_REQUIRED_FLAGS "-Werror -O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3")
check_c_source_compiles("#include <string.h>\nint main(void) { return (int)strlen(\"\"); }" MLXQ_HAS_FORTIFY_3)
unset(CMAKE_REQUIRED_FLAGS)
set(fortify 2)
if(MLXQ_HAS_FORTIFY_3)
  set(fortify 3)
endif()
add_compile_options("$<$<CONFIG:Release,RelWithDebInfo,MinSizeRel>:-U_FORTIFY_SOURCE;-D_FORTIFY_SOURCE=${fortify}>")

# The reference kernels copy a few bytes of varying length a group; level 3 checks each, for an eighth of their speed.
file(GLOB reference_kernels CONFIGURE_DEPENDS src/kernels/ref/*.c)
set_source_files_properties(${reference_kernels} PROPERTIES COMPILE_OPTIONS
  "$<$<CONFIG:Release,RelWithDebInfo,MinSizeRel>:-U_FORTIFY_SOURCE;-D_FORTIFY_SOURCE=2>")
